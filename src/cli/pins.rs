//! `flytrap pins`: tests the wiring of one pin.

use super::{Failed, print};
use crate::base::error::{Error, Kind};
use crate::platform::gpio::chip::Chip;

/// Drives `pin` to `level` (high or low) and prints the level that is read back, or only reads it.
pub(super) fn pins(chip: &str, pin: u8, level: Option<bool>, json: bool) -> Result<(), Failed> {
    let chip =
        Chip::parse(chip).map_err(|why| Error::fatal(Kind::Config, format!("--chip {chip}: {why}")))?;
    let board = chip.open()?;
    let (done, high) = match level {
        None => ("reads", board.input(pin)?.level()?),
        Some(high) => {
            let mut output = board.output(pin)?;
            output.set(high)?;
            (if high { "driven high, reads" } else { "driven low, reads" }, output.level()?)
        }
    };
    let (name, reads) = (board.name(), if high { "high" } else { "low" });
    if json {
        print(&serde_json::json!({ "chip": name, "pin": pin, "driven": level, "high": high }).to_string())?;
    } else {
        print(&format!("{name}: pin {pin} {done} {reads}"))?;
    }
    if level.is_some_and(|level| level != high) {
        let text =
            format!("pin {pin} does not take the level: check the wiring, something else may drive it");
        return Err(Error::fatal(Kind::System, text).into());
    }
    Ok(())
}
