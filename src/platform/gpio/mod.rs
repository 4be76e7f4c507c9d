//! The board's pins: a status LED, a motion sensor, a light. Any of them may be missing (I12).
//!
//! [`signals`] decides (pure), [`chip`] is the only file that touches pins.

pub mod chip;
pub mod signals;

use chip::Chip;
use signals::LightParams;

/// Assignment of the pins.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PinParams {
    /// Which chip the pins belong to.
    pub chip: Chip,
    /// The status LED: shows the state of the program.
    pub status_led: Option<Pin>,
    /// The motion sensor: high while something warm moves.
    pub motion_sensor: Option<Pin>,
    /// The light above the road.
    pub light: Option<Pin>,
    /// When the light is on.
    pub lighting: LightParams,
}

/// A pin and its polarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Its number on the chip (on a Raspberry Pi Broadcom's).
    pub number: u8,
    /// Active low.
    pub inverted: bool,
}
