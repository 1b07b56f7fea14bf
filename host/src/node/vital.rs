//! Vital tasks: those that a node cannot run without. If one ends unexpectedly, which is a bug, the
//! node stops, as it would otherwise keep running in an undefined state.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Starts vital tasks. Clones share the channel.
#[derive(Clone)]
pub(super) struct Vital(UnboundedSender<&'static str>);

/// Receives the ends of vital tasks.
pub(super) struct Ends(UnboundedReceiver<&'static str>);

/// Reports the end of a task on drop, so also after a panic.
struct End {
    task: &'static str,
    ends: UnboundedSender<&'static str>,
}

impl Drop for End {
    fn drop(&mut self) {
        // If the node has stopped, the receiver is gone.
        let _ = self.ends.send(self.task);
    }
}

pub(super) fn vital() -> (Vital, Ends) {
    let (sender, receiver) = unbounded_channel();
    (Vital(sender), Ends(receiver))
}

impl Vital {
    pub(super) fn spawn(
        &self,
        task: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let end = End {
            task,
            ends: self.0.clone(),
        };
        tokio::spawn(async move {
            let _end = end;
            work.await;
        })
    }
}

impl Ends {
    /// The name of the next task that ends.
    pub(super) async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(task) => task,
            // No vital task is left.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_heard_of_however_it_comes() {
        let (vital, mut ends) = vital();
        let _lasting = vital.spawn("lasting", std::future::pending());
        vital.spawn("done", async {});
        assert_eq!(ends.next().await, "done");
        vital.spawn("crashed", async { panic!("on purpose") });
        assert_eq!(ends.next().await, "crashed");
        vital.spawn("stopped", std::future::pending()).abort();
        assert_eq!(ends.next().await, "stopped");
    }
}
