//! The memory plan (I1): one line per owner, the sum, and the refusal to start above the budget.
//!
//! It is checked three times: before the first thread, with everything that does not depend on the cameras; when the formats of the cameras
//! are known, with the plans of their stages and of the network, before the engine's threads start; and with measured values once the
//! network has run. A camera that comes later is checked before its memory is taken.

use crate::base::error::{Error, Kind, Result};

/// How much each owner takes.
#[derive(Debug, Default, Clone)]
pub(super) struct Plan(Vec<(String, usize)>);

impl Plan {
    /// Adds an owner.
    pub(super) fn add(&mut self, owner: impl Into<String>, bytes: usize) {
        self.0.push((owner.into(), bytes));
    }

    /// All owners together, bytes.
    pub(super) fn sum(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Adds the owners of another plan.
    pub(super) fn append(&mut self, other: &Plan) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Logs the table and checks it.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) fn settle(&self, budget: usize) -> Result<()> {
        for (owner, bytes) in &self.0 {
            tracing::info!("memory: {owner} {}", Mebibytes(*bytes));
        }
        tracing::info!("memory: {} of {} planned", Mebibytes(self.sum()), Mebibytes(budget));
        self.check(budget)
    }

    /// Checks the sum against the budget.
    ///
    /// # Errors
    /// `Kind::Config` if the sum is above `budget` bytes.
    pub(super) fn check(&self, budget: usize) -> Result<()> {
        if self.sum() <= budget {
            return Ok(());
        }
        let table: Vec<String> =
            self.0.iter().map(|(owner, bytes)| format!("{owner} {}", Mebibytes(*bytes))).collect();
        let needed_mb = self.sum().div_ceil(1 << 20);
        Err(Error::fatal(
            Kind::Config,
            format!(
                "memory: {} are needed ({}), memory.budget_mb allows {}: set it to {needed_mb} or more, lower memory.ring_mb, \
                 or take a smaller model or picture",
                Mebibytes(self.sum()),
                table.join(", "),
                Mebibytes(budget)
            ),
        ))
    }
}

/// Bytes as MiB with one decimal.
pub(super) struct Mebibytes(pub(super) usize);

impl std::fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1u32 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_above_the_budget_is_refused_with_its_table() {
        let mut plan = Plan::default();
        plan.add("ring", 3 << 20);
        plan.add("queue", 1 << 19);
        plan.settle((7 << 20) / 2).unwrap();
        let error = plan.settle(3 << 20).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        let text = error.to_string();
        assert!(
            text.contains(
                "3.5 MiB are needed (ring 3.0 MiB, queue 0.5 MiB), memory.budget_mb allows 3.0 MiB: set it to 4"
            ),
            "{text}"
        );
    }
}
