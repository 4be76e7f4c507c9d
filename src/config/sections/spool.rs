//! The spool: keeps events until they are delivered.

use super::{path, seconds};
use crate::config::scopes::Spool;
use crate::config::values::Values;
use crate::delivery::spool;

pub(in crate::config) fn spool(values: &mut Values) -> Spool {
    let memory_bytes = (values.int("spool.memory_kb") as usize) << 10;
    let quota_bytes = (values.int("spool.quota_mb") as u64) << 20;
    // Space for several segments of each class, and for dead letters and damaged files.
    if quota_bytes < 32 * memory_bytes as u64 {
        let least = (32 * memory_bytes as u64).div_ceil(1 << 20);
        values.mistake(
            "spool.quota_mb",
            format_args!("must be {least} or more for spool.memory_kb = {}", memory_bytes >> 10),
        );
    }
    let days = values.int("spool.age_max_days");
    let budget_mb = values.int("spool.write_budget_mb_per_day") as u64;
    Spool {
        write_budget: (budget_mb > 0).then_some(budget_mb << 20),
        folder: path(values, "spool.folder"),
        params: spool::Params {
            segment_bytes: spool::Params::segment_bytes_for(memory_bytes, quota_bytes),
            memory_bytes,
            commit_interval: seconds(values.int("spool.commit_interval_s")),
            checkpoint_interval: seconds(values.int("spool.checkpoint_interval_s")),
            quota: spool::Quota {
                bytes: quota_bytes,
                events: values.int("spool.events_max") as u64,
                age_max: (days > 0).then(|| seconds(days * 86_400)),
                headroom: (values.int("spool.headroom_mb") as u64) << 20,
            },
            ..spool::Params::default()
        },
    }
}
