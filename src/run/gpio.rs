//! The board's pins at work: what the LED shows, what the motion sensor says, when the light is on. Runs on the main
//! thread, ten times a second; missing pins are told once and looked for again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_lite::StreamExt;

use super::Shared;
use crate::base::error::Result;
use crate::event::{Body, fixed};
use crate::platform::clock::Mono;
use crate::platform::gpio::chip::{Input, Output};
use crate::platform::gpio::signals::{Condition, Health, Light, condition, lit};
use crate::platform::gpio::{Pin, PinParams};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries to get pins that are refused.
const RETRY: Duration = Duration::from_secs(60);
/// How long a loss counts as one that goes on.
const LOSS: Duration = Duration::from_secs(60);

/// What threads tell each other about what moves. Zero is "never".
#[derive(Debug, Default)]
pub(crate) struct Senses {
    sensed: AtomicU64,
    moved: AtomicU64,
    /// Mean brightness of the last picture plus one.
    brightness: AtomicU32,
}

impl Senses {
    /// When the motion sensor was last high.
    pub(crate) fn sensed(&self) -> Option<Mono> {
        when(&self.sensed)
    }

    /// Something moved in the picture at `now`, or not, and it was so bright.
    pub(crate) fn saw(&self, now: Mono, moved: bool, brightness: u8) {
        if moved {
            self.moved.store(now.as_nanos(), Relaxed);
        }
        self.brightness.store(u32::from(brightness) + 1, Relaxed);
    }

    fn last_motion(&self) -> Option<Mono> {
        self.sensed().max(when(&self.moved))
    }

    fn last_brightness(&self) -> Option<u8> {
        self.brightness.load(Relaxed).checked_sub(1).and_then(|value| u8::try_from(value).ok())
    }
}

fn when(at: &AtomicU64) -> Option<Mono> {
    match at.load(Relaxed) {
        0 => None,
        nanos => Some(Mono::from_nanos(nanos)),
    }
}

/// The pins that were given to us.
struct Taken {
    status_led: Option<(Box<dyn Output>, bool)>,
    motion_sensor: Option<(Box<dyn Input>, bool)>,
    light: Option<(Box<dyn Output>, bool)>,
}

impl Taken {
    fn take(params: &PinParams) -> Result<Self> {
        let board = params.chip.open()?;
        let output = |Pin { number, inverted }: Pin| -> Result<_> {
            let mut output = board.output(number)?;
            output.set(inverted)?;
            Ok((output, inverted))
        };
        let input = |Pin { number, inverted }: Pin| -> Result<_> { Ok((board.input(number)?, inverted)) };
        let taken = Taken {
            status_led: params.status_led.map(output).transpose()?,
            motion_sensor: params.motion_sensor.map(input).transpose()?,
            light: params.light.map(output).transpose()?,
        };
        tracing::info!("pins of {}: in use", board.name());
        Ok(taken)
    }
}

/// Works the pins for ever. Comes back never; without any in the configuration it does nothing.
pub(super) async fn operate(shared: &Shared) {
    let params = &shared.config.pins;
    if [params.status_led, params.motion_sensor, params.light].iter().all(Option::is_none) {
        return futures_lite::future::pending().await;
    }
    let mut timer = smol::Timer::interval(LOOK);
    let mut light = Light::new(params.lighting);
    let mut judge = Judge::new(shared.started);
    let mut taken = None;
    let mut retry_at = Mono::ZERO;
    let mut told = false;
    loop {
        let now = shared.clock.mono();
        let failed = match &mut taken {
            Some(pins) => work(pins, shared, &mut light, judge.condition(shared, now), now).err(),
            None if now < retry_at => None,
            None => match Taken::take(params) {
                Ok(pins) => {
                    (taken, told) = (Some(pins), false);
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = failed {
            (taken, retry_at) = (None, now + RETRY);
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("{error}; it goes on without pins and tries again each minute");
                shared.post_own(Body::Degraded { reason: fixed(&error.to_string()) });
            }
        }
        timer.next().await;
    }
}

/// One look.
fn work(pins: &mut Taken, shared: &Shared, light: &mut Light, condition: Condition, now: Mono) -> Result<()> {
    if let Some((sensor, inverted)) = &pins.motion_sensor
        && sensor.level()? != *inverted
    {
        shared.senses.sensed.store(now.as_nanos(), Relaxed);
    }
    if let Some((led, inverted)) = &mut pins.status_led {
        led.set(lit(condition, now) != *inverted)?;
    }
    if let Some((lamp, inverted)) = &mut pins.light {
        let on = light.decide(now, shared.senses.last_motion(), shared.senses.last_brightness());
        lamp.set(on != *inverted)?;
    }
    Ok(())
}

/// Makes conditions of counters.
struct Judge {
    started: Mono,
    lost: u64,
    lost_at: Option<Mono>,
    failures: u64,
    delivered_at: Option<Mono>,
}

impl Judge {
    fn new(started: Mono) -> Self {
        Judge { started, lost: 0, lost_at: None, failures: 0, delivered_at: None }
    }

    fn condition(&mut self, shared: &Shared, now: Mono) -> Condition {
        let counters = shared.outbox.counters();
        let lost = shared.metrics.frames_corrupt.get() + counters.dropped() + counters.refused();
        if lost > self.lost {
            (self.lost, self.lost_at) = (lost, Some(now));
        }
        let delivered_at = counters.last_delivery();
        if delivered_at != self.delivered_at {
            (self.failures, self.delivered_at) = (counters.failures(), delivered_at);
        }
        condition(&Health {
            frame_age: now.since(shared.metrics.last_frame().unwrap_or(self.started)),
            delivery_age: now.since(delivered_at.unwrap_or(self.started)),
            sends_fail: counters.failures() > self.failures,
            loses: self.lost_at.is_some_and(|at| now.since(at) < LOSS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senses_remember_the_last_of_both() {
        let at = |seconds: u64| Mono::from_nanos(seconds * 1_000_000_000);
        let senses = Senses::default();
        assert_eq!((senses.last_motion(), senses.last_brightness()), (None, None));
        senses.saw(at(5), false, 0);
        assert_eq!((senses.last_motion(), senses.last_brightness()), (None, Some(0)));
        senses.saw(at(6), true, 255);
        assert_eq!((senses.last_motion(), senses.last_brightness()), (Some(at(6)), Some(255)));
        senses.sensed.store(at(9).as_nanos(), Relaxed);
        assert_eq!((senses.last_motion(), senses.sensed()), (Some(at(9)), Some(at(9))));
    }
}
