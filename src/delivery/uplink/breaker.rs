//! The circuit breaker: whether a refusal is accepted.
//!
//! A receiver that refuses everything (another program answers at that address, its format changed) must not empty the
//! device, and a bad event must not stand in the way of the others. So a refusal is accepted only from a receiver that also
//! confirms: each confirmation is good for a budget of [`REFUSALS_MAX`] refused events. Without a budget a refused event is
//! set aside and others are tried; after [`REFUSALS_MAX`] in a row the circuit opens: nothing is sent for a back-off.

/// Events that may be refused one by one after a confirmation before the circuit opens. A bad event is a fault of ours and
/// rare; sixteen in a row are a fault of the receiver.
pub(super) const REFUSALS_MAX: usize = 16;

/// What is known about the receiver's refusals.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Refusals that are still accepted.
    budget: usize,
    /// The receiver, or one before it at the same place, has confirmed something.
    has_confirmed: bool,
    /// Events set aside since the last confirmation or wait.
    in_row: usize,
}

impl Breaker {
    /// The receiver has confirmed before: in an earlier run, say.
    pub(super) fn assume_confirmed(&mut self) {
        self.has_confirmed = true;
    }

    /// Another receiver answers from now on: its refusals are not accepted before it has confirmed something.
    pub(super) fn switch_receiver(&mut self) {
        (self.budget, self.has_confirmed) = (0, false);
    }

    /// The receiver has confirmed something. What was set aside before, so many events, is tried once more, and given up
    /// if this receiver refuses it again.
    pub(super) fn confirmed(&mut self, aside: usize) {
        *self = Breaker { budget: REFUSALS_MAX.max(aside), has_confirmed: true, in_row: 0 };
    }

    /// A whole batch was refused and there is no room for other events: a receiver that has confirmed others gets a budget,
    /// because a row of bad events must not stand in the way for ever. One that has never confirmed anything gets none.
    pub(super) fn blocked(&mut self) {
        if self.has_confirmed {
            self.budget = REFUSALS_MAX;
        }
    }

    /// An event was refused alone. Whether that is accepted: the event is given up.
    pub(super) fn accepts_refusal(&mut self) -> bool {
        let accepted = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        accepted
    }

    /// A refused event is set aside. Whether the circuit opens.
    pub(super) fn set_aside(&mut self) -> bool {
        self.in_row += 1;
        self.in_row >= REFUSALS_MAX
    }

    /// Nothing is sent for a while.
    pub(super) fn pause(&mut self) {
        self.in_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_is_good_for_a_budget_of_refusals() {
        let mut breaker = Breaker::default();
        assert!(!breaker.accepts_refusal(), "nothing was confirmed yet");
        breaker.confirmed(0);
        assert!((0..REFUSALS_MAX).all(|_| breaker.accepts_refusal()));
        assert!(!breaker.accepts_refusal(), "the budget is spent");
        breaker.confirmed(40);
        assert_eq!(
            (0..50).filter(|_| breaker.accepts_refusal()).count(),
            40,
            "enough for all that was set aside"
        );
        breaker.confirmed(0);
        breaker.switch_receiver();
        assert!(!breaker.accepts_refusal(), "the budget was another's");
    }

    #[test]
    fn the_circuit_opens_after_a_row_without_a_confirmation() {
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
