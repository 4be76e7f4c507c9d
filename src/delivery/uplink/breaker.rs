//! The circuit breaker: decides whether a refusal is accepted.
//!
//! A receiver that refuses everything (another program responds at that address, its format changed) must not empty the device, and a bad
//! event must not block the others. So a refusal is accepted only from a receiver that also confirms: each confirmation grants a budget of
//! [`REFUSALS_MAX`] refused events. Without a budget a refused event is set aside and others are tried; after [`REFUSALS_MAX`] in a row the
//! circuit opens: nothing is sent during a back-off.

/// Events that may be refused one by one after a confirmation before the circuit opens. A bad event is a bug of ours and rare; sixteen in a
/// row are a fault of the receiver.
pub(super) const REFUSALS_MAX: usize = 16;

/// State of the circuit breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Number of refusals that are still accepted.
    budget: usize,
    /// The receiver, or an earlier one at the same address, has confirmed something.
    has_confirmed: bool,
    /// Events set aside since the last confirmation or back-off.
    in_row: usize,
}

impl Breaker {
    /// The receiver has confirmed before, for example in an earlier run.
    pub(super) fn assume_confirmed(&mut self) {
        self.has_confirmed = true;
    }

    /// Another receiver responds from now on: its refusals are not accepted before it has confirmed something.
    pub(super) fn switch_receiver(&mut self) {
        (self.budget, self.has_confirmed) = (0, false);
    }

    /// The receiver has confirmed something. Events that were set aside, this many, are tried once more, and given up if the receiver
    /// refuses them again.
    pub(super) fn confirmed(&mut self, aside: usize) {
        *self = Breaker { budget: REFUSALS_MAX.max(aside), has_confirmed: true, in_row: 0 };
    }

    /// A whole batch was refused and there is no space for other events. A receiver that has confirmed others gets a budget, because a
    /// series of bad events must not block the queue for ever. One that has never confirmed anything gets none.
    pub(super) fn blocked(&mut self) {
        if self.has_confirmed {
            self.budget = REFUSALS_MAX;
        }
    }

    /// An event was refused alone. Returns whether the refusal is accepted: the event is given up.
    pub(super) fn accepts_refusal(&mut self) -> bool {
        let accepted = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        accepted
    }

    /// A refused event is set aside. Returns whether the circuit opens.
    pub(super) fn set_aside(&mut self) -> bool {
        self.in_row += 1;
        self.in_row >= REFUSALS_MAX
    }

    /// A back-off begins: nothing is sent for a while.
    pub(super) fn pause(&mut self) {
        self.in_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_grants_a_budget_of_refusals() {
        let mut breaker = Breaker::default();
        assert!(!breaker.accepts_refusal(), "nothing was confirmed yet");
        breaker.confirmed(0);
        assert!((0..REFUSALS_MAX).all(|_| breaker.accepts_refusal()));
        assert!(!breaker.accepts_refusal(), "the budget is spent");
        breaker.confirmed(40);
        assert_eq!(
            (0..50).filter(|_| breaker.accepts_refusal()).count(),
            40,
            "enough for all events that were set aside"
        );
        breaker.confirmed(0);
        breaker.switch_receiver();
        assert!(!breaker.accepts_refusal(), "the budget belonged to the other receiver");
    }

    #[test]
    fn the_circuit_opens_after_a_series_of_refusals_without_a_confirmation() {
        let mut breaker = Breaker::default();
        let opens = |breaker: &mut Breaker| (1..100).find(|_| breaker.set_aside());
        assert_eq!(opens(&mut breaker), Some(REFUSALS_MAX));
        breaker.pause();
        assert_eq!(opens(&mut breaker), Some(REFUSALS_MAX));
        breaker.pause();
        breaker.set_aside();
        breaker.confirmed(0);
        assert_eq!(opens(&mut breaker), Some(REFUSALS_MAX));
    }

    #[test]
    fn only_a_receiver_that_has_confirmed_gets_a_budget_when_it_blocks() {
        let mut breaker = Breaker::default();
        breaker.blocked();
        assert!(!breaker.accepts_refusal());
        breaker.assume_confirmed();
        breaker.blocked();
        assert_eq!((0..50).filter(|_| breaker.accepts_refusal()).count(), REFUSALS_MAX);
    }
}
