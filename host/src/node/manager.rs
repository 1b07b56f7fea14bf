//! Tells the service manager that started this node what it does, if it wants to know (systemd, `Type=notify`).

use sd_notify::NotifyState;
use tracing::warn;

/// The node takes messages.
pub(super) fn is_ready() {
    tell(NotifyState::Ready);
}

/// The node leaves: it is no longer expected to go on.
pub(super) fn leaves() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(event = "manager-not-told", %error, "the service manager cannot be told how the node is (NOTIFY_SOCKET)");
    }
}
