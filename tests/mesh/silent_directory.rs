//! A plugins directory whose file system hangs, as network file systems do at times, blocks nothing
//! but changes of its own plugins.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::process::Signal;

use crate::harness::{Plugins, Setup, own_mounts, skipped, stamped, until, wait_for_mesh};

/// A FUSE file system over a directory, whose server never answers: any access blocks until this
/// value is dropped.
struct Silence {
    directory: PathBuf,
    /// The server's end of the connection to the kernel. Closing it aborts the file system.
    server: Option<File>,
}

impl Silence {
    /// Returns whether there can be one.
    fn prepare() -> bool {
        own_mounts() && Self::server().is_ok()
    }

    fn server() -> io::Result<File> {
        File::options().read(true).write(true).open("/dev/fuse")
    }

    fn over(directory: &Path) -> Self {
        let server = Self::server().unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            server.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("silence"),
            directory,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        Self {
            directory: directory.to_owned(),
            server: Some(server),
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Closed first: otherwise unmounting would block, too.
        self.server = None;
        umount2(&self.directory, MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_directory_that_does_not_answer_holds_up_nobody() {
    if !Silence::prepare() {
        let needs = "/dev/fuse (`modprobe fuse`) and mounts of its own (root, or `unshare --user --map-root-user`)";
        return skipped("a_directory_that_does_not_answer_holds_up_nobody", needs);
    }
    let plugins = Plugins::empty()
        .with_file("echo.wasm", stamped("echo", 0))
        .with("other", "echo");
    // One worker thread: if it blocked on the directory, so would the whole node.
    let first = Setup::new(plugins.clone())
        .id("n1")
        .variable("TOKIO_WORKER_THREADS", "1")
        .ready()
        .await;
    fs::remove_file(plugins.path().join("other.wasm")).unwrap();
    first.event("plugin-removed").await;
    let silence = Silence::over(plugins.path());
    first.event("plugins-directory-silent").await;
    // The removal that has begun completes: it has been announced, and the plugin is dropped.
    until(|| async { !first.admin("/plugins").await.text().contains("other.wasm") }).await;
    // The node serves messages, and another node can join.
    assert_eq!(first.post("/api/echo/1").send().await.status, 200);
    let second = Setup::new(Plugins::empty())
        .id("n2")
        .seeds(&[&first])
        .start()
        .await;
    wait_for_mesh(&[&first, &second]).await;
    assert_eq!(second.post("/api/echo/1").send().await.node(), "n1");
    // A node whose directory hangs at its start can be shut down.
    let mut third = Setup::new(plugins.clone())
        .id("n3")
        .seeds(&[&first])
        .start()
        .await;
    third.event("plugins-directory-silent").await;
    third.signal(Signal::TERM);
    assert!(third.ended().await.success());

    drop(silence);
    first.event("plugins-directory-readable").await;
    plugins.put("more.wasm", &stamped("echo", 1));
    until(|| async { second.post("/api/more/1").send().await.status == 200 }).await;
}
