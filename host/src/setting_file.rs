//! Reads files that settings name, with limits on size and time: a device may have no end, and a
//! pipe no writer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// The largest file accepted; the certificates of all public authorities take a quarter of it.
pub(crate) const BYTES_MAX: u64 = 1 << 20;

/// How long a pipe may take to reach its end. Shells turn `<(command)` into a pipe.
const PIPE_MAX: Duration = Duration::from_secs(5);

/// How often a pipe without data is polled.
const PIPE_INTERVAL: Duration = Duration::from_millis(10);

/// Opens a file or a pipe, without waiting for a writer at the other end of the pipe.
pub(crate) fn open(file: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(file)?;
    let kind = opened.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() && !kind.is_fifo() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a pipe",
        ));
    }
    Ok(opened)
}

/// The content of a file. Fails if it has more than `bytes_max` bytes.
pub(crate) fn read(opened: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let give_up = Instant::now() + PIPE_MAX;
    let is_pipe = opened.metadata()?.file_type().is_fifo();
    // Reads do not block: they stop early while a pipe has no data, or no writer, yet.
    loop {
        match opened
            .take(bytes_max + 1 - bytes.len() as u64)
            .read_to_end(&mut bytes)
        {
            Ok(_) if is_pipe && bytes.is_empty() => {}
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > give_up {
            let told = format!(
                "it is a pipe, and has not come to its end within {} s",
                PIPE_MAX.as_secs()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, told));
        }
        sleep(PIPE_INTERVAL);
    }
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {bytes_max} bytes"),
        ));
    }
    Ok(bytes)
}

/// The bytes of a file.
pub(crate) fn bytes_of(file: &Path) -> io::Result<Vec<u8>> {
    read(&open(file)?, BYTES_MAX)
}

/// The text of a file.
pub(crate) fn text_of(file: &Path) -> io::Result<String> {
    String::from_utf8(bytes_of(file)?).map_err(|_| not_text())
}

/// The error for a file whose content is not UTF-8.
pub(crate) fn not_text() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn pipe_in(directory: &Path) -> PathBuf {
        let pipe = directory.join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        pipe
    }

    fn told(file: &Path) -> String {
        bytes_of(file).unwrap_err().to_string()
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            told(Path::new("/dev/zero")),
            "it is neither a file nor a pipe"
        );
        assert_eq!(told(directory.path()), "is a directory");
        let large = directory.path().join("large");
        fs::write(&large, vec![b'x'; BYTES_MAX as usize]).unwrap();
        assert_eq!(bytes_of(&large).unwrap().len() as u64, BYTES_MAX);
        fs::write(&large, vec![b'x'; BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(told(&large), "it has more than 1048576 bytes");
        fs::write(&large, b"\xff").unwrap();
        assert_eq!(text_of(&large).unwrap_err().to_string(), "it is not UTF-8");
    }

    #[test]
    fn nobody_waits_for_ever_for_a_pipe_that_has_no_writer() {
        let directory = tempfile::tempdir().unwrap();
        assert!(told(&pipe_in(directory.path())).contains("has not come to its end within 5 s"));
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = pipe_in(directory.path());
        let reading = thread::spawn({
            let pipe = pipe.clone();
            move || text_of(&pipe)
        });
        // Blocks until the reader has opened the pipe.
        let mut writer = OpenOptions::new().write(true).open(&pipe).unwrap();
        writer.write_all(b"one, ").unwrap();
        writer.write_all(b"two").unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), "one, two");
    }
}
