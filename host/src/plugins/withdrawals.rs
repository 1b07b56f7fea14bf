//! Withdrawals: which streams are no longer offered but still run messages that arrive, and by
//! which withdrawal. Pure: knows no plugins, and no clock.

use std::collections::BTreeMap;

use crate::message::StreamName;

/// The streams that are withdrawn now.
#[derive(Default, Clone)]
pub(super) struct Withdrawals {
    /// The number of each withdrawal, which is unique over all streams.
    numbers: BTreeMap<StreamName, u64>,
    begun: u64,
}

/// One withdrawal of a stream. Before it ends, the stream may be offered and withdrawn again, under
/// another number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Withdrawal {
    pub(super) stream: StreamName,
    number: u64,
}

impl Withdrawals {
    /// Begins a withdrawal; `None` if the stream is withdrawn already.
    pub(super) fn begin(&mut self, stream: &StreamName) -> Option<Withdrawal> {
        if self.contains(stream) {
            return None;
        }
        self.begun += 1;
        self.numbers.insert(stream.clone(), self.begun);
        Some(Withdrawal {
            stream: stream.clone(),
            number: self.begun,
        })
    }

    /// Cancels the withdrawal of a stream that is offered again.
    pub(super) fn cancel(&mut self, stream: &StreamName) {
        self.numbers.remove(stream);
    }

    /// Ends a withdrawal. Returns whether it was still in effect; a later withdrawal of the stream
    /// stays in effect.
    pub(super) fn end(&mut self, withdrawal: &Withdrawal) -> bool {
        let is_it = self.numbers.get(&withdrawal.stream) == Some(&withdrawal.number);
        if is_it {
            self.numbers.remove(&withdrawal.stream);
        }
        is_it
    }

    pub(super) fn contains(&self, stream: &StreamName) -> bool {
        self.numbers.contains_key(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_earlier_withdrawal_leaves_a_later_one() {
        let stream = StreamName::try_from("echo").unwrap();
        let mut withdrawals = Withdrawals::default();
        let earlier = withdrawals.begin(&stream).unwrap();
        withdrawals.cancel(&stream);
        let later = withdrawals.begin(&stream).unwrap();
        assert!(!withdrawals.end(&earlier));
        assert!(withdrawals.contains(&stream));
        assert!(withdrawals.end(&later));
        assert!(!withdrawals.contains(&stream));
        assert!(!withdrawals.end(&later), "it ends once");
    }

    #[test]
    fn a_stream_that_is_offered_again_stays() {
        let stream = StreamName::try_from("echo").unwrap();
        let mut withdrawals = Withdrawals::default();
        let withdrawal = withdrawals.begin(&stream).unwrap();
        withdrawals.cancel(&stream);
        assert!(!withdrawals.end(&withdrawal));
    }

    #[test]
    fn what_is_withdrawn_already_keeps_its_end() {
        let stream = StreamName::try_from("echo").unwrap();
        let mut withdrawals = Withdrawals::default();
        let withdrawal = withdrawals.begin(&stream).unwrap();
        assert_eq!(withdrawals.begin(&stream), None);
        assert!(withdrawals.end(&withdrawal));
    }
}
