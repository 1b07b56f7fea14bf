//! Runs one message that has a place: waits for a permit, reserves memory for the reply, and calls
//! the handler.

use super::admission::Place;
use super::catalog::Plugin;
use crate::bodies::{BodyMemory, NoRoom};
use crate::message::{Fault, Message, Outcome, Refusal, Stage};
use crate::runtime::{CallContext, CallDeadline};
use crate::telemetry::StageClock;

/// Runs a message on the plugin that its place is on. A stateful handler works on the entity in
/// `context`, which has what it wrote when the call has ended.
pub async fn run(
    place: &Place<Plugin>,
    message: &Message,
    context: &mut Option<Box<CallContext>>,
    deadline: CallDeadline,
    bodies: &'static BodyMemory,
) -> Outcome {
    if !place.is_running() {
        // Boxed because it is rare: otherwise every message's future would reserve space for it.
        let waited = async {
            let _clock = StageClock::start(message, Stage::Waiting);
            place.wait(deadline.at()).await
        };
        Box::pin(waited).await.map_err(Fault::Refused)?;
    }
    let plugin = place.plugin();
    // Before the handler runs, but not while the message waits.
    let reserved = bodies
        .reserve_reply(plugin.admission.reply_expected.bytes())
        .map_err(|NoRoom| Fault::Refused(Refusal::NoRoom))?;
    let clock = StageClock::start(message, Stage::Running);
    let called = plugin
        .handler
        .call(message, context, deadline, || place.count_call());
    let reply = called.await?;
    drop(clock);
    plugin.admission.reply_expected.note(reply.body.len());
    reply.with_reservation(reserved, bodies)
}
