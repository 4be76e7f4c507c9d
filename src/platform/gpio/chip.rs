//! GPIO pins: a Raspberry Pi's through `rppal`, any other board's through the kernel's character device. The only file that uses either
//! crate.

use std::fmt;
use std::path::PathBuf;

use gpiocdev::line::{Bias, Value};
use gpiocdev::request::{Builder, Request};

use crate::base::error::{Error, Kind, Result};

/// The GPIO chip that every board has.
const CHIP: &str = "/dev/gpiochip0";

/// The chip that the pins belong to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Chip {
    /// A Raspberry Pi's registers if this is one, else the kernel's first chip.
    #[default]
    Auto,
    /// A Raspberry Pi's registers (`/dev/gpiomem`), numbers as Broadcom's.
    Rppal,
    /// The kernel's chip at this path.
    Kernel(PathBuf),
}

impl Chip {
    /// Reads `auto`, `rppal` or a path below /dev.
    ///
    /// # Errors
    /// The expected form.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        match text {
            "auto" => Ok(Chip::Auto),
            "rppal" => Ok(Chip::Rppal),
            path if path.starts_with("/dev/") => Ok(Chip::Kernel(path.into())),
            _ => Err("must be \"auto\", \"rppal\" or a chip such as \"/dev/gpiochip0\""),
        }
    }

    /// Opens the chip.
    ///
    /// # Errors
    /// `Kind::System`, with the remedy.
    pub fn open(&self) -> Result<OpenChip> {
        let unusable = |what: &str, error: &dyn fmt::Display| {
            Error::degrade(Kind::System, format!("gpio.chip: {what} cannot be used: {error}"))
        };
        match self {
            Chip::Rppal => match rppal::gpio::Gpio::new() {
                Ok(gpio) => Ok(OpenChip::Pi(gpio)),
                Err(error) => Err(unusable("the registers of a Raspberry Pi", &error)),
            },
            Chip::Kernel(path) => match gpiocdev::chip::Chip::from_path(path) {
                Ok(_) => Ok(OpenChip::Kernel(path.clone())),
                Err(error) => Err(unusable(&path.display().to_string(), &error)),
            },
            Chip::Auto => Chip::Rppal.open().or_else(|_| Chip::Kernel(CHIP.into()).open()),
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chip::Auto => f.write_str("auto"),
            Chip::Rppal => f.write_str("rppal"),
            Chip::Kernel(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An open chip.
#[derive(Debug)]
pub enum OpenChip {
    /// `rppal`.
    Pi(rppal::gpio::Gpio),
    /// `gpiocdev`, which opens the chip for each pin.
    Kernel(PathBuf),
}

/// An output pin. Dropping it releases the pin.
pub trait Output: Send {
    /// Drives it high or low.
    ///
    /// # Errors
    /// The chip is gone.
    fn set(&mut self, high: bool) -> Result<()>;
    /// Reads the pin's level back.
    ///
    /// # Errors
    /// The chip is gone.
    fn level(&self) -> Result<bool>;
}

/// An input pin.
pub trait Input: Send {
    /// Its level; true is high.
    ///
    /// # Errors
    /// The chip is gone.
    fn level(&self) -> Result<bool>;
}

impl OpenChip {
    /// Description of the chip for messages.
    pub fn name(&self) -> String {
        match self {
            OpenChip::Pi(_) => "rppal".to_owned(),
            OpenChip::Kernel(path) => path.display().to_string(),
        }
    }

    /// Requests a pin as output, low at first.
    ///
    /// # Errors
    /// No such pin, or another program holds it.
    pub fn output(&self, pin: u8) -> Result<Box<dyn Output>> {
        match self {
            OpenChip::Pi(gpio) => {
                let taken = gpio.get(pin).map_err(|error| refused(pin, &error))?;
                Ok(Box::new(PiOutput(taken.into_output_low())))
            }
            OpenChip::Kernel(_) => {
                let request = self.request(pin, |line| {
                    line.as_output(Value::Inactive);
                })?;
                Ok(Box::new(KernelPin(request, pin)))
            }
        }
    }

    /// Requests a pin as input, pulled low so that a cut wire reads as no motion.
    ///
    /// # Errors
    /// See [`OpenChip::output`].
    pub fn input(&self, pin: u8) -> Result<Box<dyn Input>> {
        match self {
            OpenChip::Pi(gpio) => {
                let taken = gpio.get(pin).map_err(|error| refused(pin, &error))?;
                Ok(Box::new(PiInput(taken.into_input_pulldown())))
            }
            OpenChip::Kernel(_) => {
                // Not every chip has pull resistors.
                let pulled = self.request(pin, |line| {
                    line.as_input().with_bias(Bias::PullDown);
                });
                let request = pulled.or_else(|_| {
                    self.request(pin, |line| {
                        line.as_input();
                    })
                })?;
                Ok(Box::new(KernelPin(request, pin)))
            }
        }
    }

    fn request(&self, pin: u8, shape: impl FnOnce(&mut Builder)) -> Result<Request> {
        let OpenChip::Kernel(path) = self else { return Err(refused(pin, &"not a chip of the kernel's")) };
        let mut builder = Request::builder();
        builder.on_chip(path).with_consumer("flytrap").with_line(u32::from(pin));
        shape(&mut builder);
        builder.request().map_err(|error| refused(pin, &error))
    }
}

fn refused(pin: u8, error: &dyn fmt::Display) -> Error {
    Error::degrade(Kind::System, format!("gpio: pin {pin} cannot be used: {error}"))
}

struct PiOutput(rppal::gpio::OutputPin);

impl Output for PiOutput {
    fn set(&mut self, high: bool) -> Result<()> {
        self.0.write(if high { rppal::gpio::Level::High } else { rppal::gpio::Level::Low });
        Ok(())
    }

    fn level(&self) -> Result<bool> {
        Ok(self.0.is_set_high())
    }
}

struct PiInput(rppal::gpio::InputPin);

impl Input for PiInput {
    fn level(&self) -> Result<bool> {
        Ok(self.0.is_high())
    }
}

/// A requested line of the kernel's device, and its number.
struct KernelPin(Request, u8);

impl Output for KernelPin {
    fn set(&mut self, high: bool) -> Result<()> {
        let value = if high { Value::Active } else { Value::Inactive };
        self.0.set_lone_value(value).map_err(|error| refused(self.1, &error))
    }

    fn level(&self) -> Result<bool> {
        Input::level(self)
    }
}

impl Input for KernelPin {
    fn level(&self) -> Result<bool> {
        let value = self.0.lone_value().map_err(|error| refused(self.1, &error))?;
        Ok(value == Value::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Class;

    #[test]
    fn chips_are_read() {
        for text in ["auto", "rppal", "/dev/gpiochip3"] {
            assert_eq!(Chip::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "gpiochip0", "Auto"] {
            assert!(Chip::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_chip_degrades() {
        for chip in [Chip::Kernel("/dev/gpiochip-of-nobody".into()), Chip::Kernel("/dev/null".into())] {
            let error = chip.open().unwrap_err();
            assert_eq!(error.class(), Class::Degrade);
            assert!(error.to_string().contains("gpio.chip"), "{error}");
        }
    }
}
