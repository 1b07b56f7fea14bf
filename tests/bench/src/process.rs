//! What is measured runs in processes of its own; what they take is asked of Linux.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// No server takes longer to start, and no node to do what it is asked.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);

/// One that does not end by itself in so long is killed.
const END_MAX: Duration = Duration::from_secs(3);

/// Other people's processes tell of nothing: they are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(2);

/// A running process. It is killed when the value goes.
pub(crate) struct Process {
    child: Child,
    /// As one would type it.
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

    /// Starts one that says its address in the first line.
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

    /// The time that it and its children have run so far, on all cores.
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
        // It leaves no children behind: those that have any end them.
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        if wait_until(END_MAX, || Ok(!matches!(self.child.try_wait(), Ok(None)))).is_ok() {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time that processes have run which this one started, and which have ended.
pub(crate) fn cpu_of_ended() -> Result<Duration> {
    cpu_times("self", 2)
}

/// Two of the times that Linux tells of a process, together: its own in user mode and in the kernel
/// (0), or those of its ended children (2).
fn cpu_times(process: &str, first: usize) -> Result<Duration> {
    const USER_TIME: usize = 11;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may have spaces.
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

/// A command as one would type it, with programs by their names.
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

/// Waits until somebody listens.
pub(crate) fn wait_for(addr: SocketAddr) -> Result<()> {
    wait_until(START_MAX, || Ok(TcpStream::connect(addr).is_ok()))
        .with_context(|| format!("nothing listens on {addr}"))
}

/// Asks again and again until it is so.
pub(crate) fn wait_until(max: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + max;
    while !is_so()? {
        ensure!(Instant::now() < end, "it is not so after {max:?}");
        std::thread::sleep(ASK_INTERVAL);
    }
    Ok(())
}

/// Where a program is, if it is installed.
pub(crate) fn installed(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = ["/usr/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// The first line in which a program says its version.
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
