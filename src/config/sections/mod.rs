//! From checked values to each stage's `Params`: the only place that reads a key by its name. Rules that a range cannot express (a source,
//! a polygon, two settings that must agree) are checked here.

pub(super) mod board;
pub(super) mod camera;
pub(super) mod model;
pub(super) mod shapes;
pub(super) mod spool;
pub(super) mod status;
pub(super) mod uplink;

use std::path::PathBuf;
use std::time::Duration;

use super::values::Values;
use crate::base::limits::NAME_BYTES_MAX;
use crate::event::{Name, fixed};

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A path; `None` for an empty text.
fn path(values: &Values, key: &str) -> Option<PathBuf> {
    values.text_or_none(key).map(PathBuf::from)
}

/// A name for identities: letters, digits, `-`, `_`, `.`.
fn name(values: &mut Values, key: &str) -> Name {
    let text = values.text(key).to_owned();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(fine) {
        values.mistake(key, format_args!("must be 1 to {NAME_BYTES_MAX} of letters, digits, - _ ."));
    }
    fixed(&text)
}
