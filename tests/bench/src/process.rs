//! Starts the measured programs as separate processes, and reads from `/proc` what they use.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Timeout for a server to start, and for a node to reach an expected state.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);

/// A process that has not exited this long after SIGTERM is killed.
const END_MAX: Duration = Duration::from_secs(3);

/// Polling interval: third-party servers do not announce when they are ready.
const ASK_INTERVAL: Duration = Duration::from_millis(2);

/// A running process. Dropping it ends the process.
pub(crate) struct Process {
    child: Child,
    /// The command line as one would type it.
    pub(crate) command: String,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Self::spawn(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self {
            child,
            command: typed(command),
        })
    }

    /// Starts a process that prints its address in the first line of its output.
    pub(crate) fn start_and_ask(command: &mut Command) -> Result<(Self, SocketAddr)> {
        let mut process = Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        BufReader::new(process.child.stdout.take().context("it has no output")?)
            .read_line(&mut line)?;
        Ok((process, line.trim().parse()?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of the process and its children so far, on all cores.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        std::iter::once(self.id())
            .chain(self.children())
            .map(|id| cpu_times(&id.to_string(), 0))
            .sum()
    }

    fn children(&self) -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id()))
            .into_iter()
            .flatten()
            .flatten();
        let of_thread = |thread: fs::DirEntry| {
            fs::read_to_string(thread.path().join("children")).unwrap_or_default()
        };
        threads
            .map(of_thread)
            .collect::<Vec<_>>()
            .join(" ")
            .split_whitespace()
            .flat_map(str::parse)
            .collect()
    }

    /// Resident memory, in kB.
    pub(crate) fn resident_kb(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        Ok(resident.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: a server that has child processes then ends them.
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        if wait_until(END_MAX, || Ok(!matches!(self.child.try_wait(), Ok(None)))).is_ok() {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of the child processes of this one that have exited.
pub(crate) fn cpu_of_ended() -> Result<Duration> {
    cpu_times("self", 2)
}

/// Sum of two times in `/proc/PID/stat`, in user mode and in the kernel: of the process itself
/// (`first` is 0), or of its exited children (2).
fn cpu_times(process: &str, first: usize) -> Result<Duration> {
    const USER_TIME: usize = 11;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may contain spaces.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("no stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |field: usize| fields[USER_TIME + field].parse::<u64>();
    let seconds =
        (ticks(first)? + ticks(first + 1)?) as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(seconds))
}

/// A command line as one would type it, with the program's name instead of its path.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = std::iter::once(program)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy);
    words
        .map(|word| if word.is_empty() { "\"\"".into() } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until something listens on the address.
pub(crate) fn wait_for(addr: SocketAddr) -> Result<()> {
    wait_until(START_MAX, || Ok(TcpStream::connect(addr).is_ok()))
        .with_context(|| format!("nothing listens on {addr}"))
}

/// Polls until the condition holds; an error after `max`.
pub(crate) fn wait_until(max: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + max;
    while !is_so()? {
        ensure!(Instant::now() < end, "it is not so after {max:?}");
        std::thread::sleep(ASK_INTERVAL);
    }
    Ok(())
}

/// Path of a program, if it is installed.
pub(crate) fn installed(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = ["/usr/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// The first line that a program prints about its version.
pub(crate) fn version(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "?".into();
    };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said)
        .lines()
        .next()
        .unwrap_or("?")
        .to_owned()
}
