//! Drives the board's pins: status LED, motion sensor, light. Runs on the main thread, ten times a second. Unavailable pins are logged once
//! and requested again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_lite::StreamExt;

use super::{CameraState, Shared};
use crate::base::error::Result;
use crate::event::{Body, fixed};
use crate::platform::clock::Mono;
use crate::platform::gpio::chip::{Input, Output};
use crate::platform::gpio::signals::{Condition, Health, Light, condition, lit};
use crate::platform::gpio::{Pin, PinParams};

/// Time between two polls.
const POLL: Duration = Duration::from_millis(100);
/// Time between two requests for unavailable pins.
const RETRY: Duration = Duration::from_secs(60);
/// How long the LED shows a loss.
const LOSS: Duration = Duration::from_secs(60);

/// When the motion sensor last reported motion. Zero means "never".
#[derive(Debug, Default)]
pub(crate) struct MotionSensor(AtomicU64);

impl MotionSensor {
    /// When the motion sensor was last high.
    pub(crate) fn last_sensed(&self) -> Option<Mono> {
        when(&self.0)
    }
}

/// Time of the last motion in a camera's pictures, and their brightness: shared by the threads that measure them and the threads that act
/// on them. Zero means "never".
#[derive(Debug, Default)]
pub(crate) struct MotionAndLight {
    moved: AtomicU64,
    /// Mean brightness of the last frame plus one.
    brightness: AtomicU32,
}

impl MotionAndLight {
    /// A frame was processed: whether something moved in it, and its mean brightness.
    pub(crate) fn note_picture(&self, now: Mono, moved: bool, brightness: u8) {
        if moved {
            self.moved.store(now.as_nanos(), Relaxed);
        }
        self.brightness.store(u32::from(brightness) + 1, Relaxed);
    }

    fn last_motion(&self) -> Option<Mono> {
        when(&self.moved)
    }

    fn last_brightness(&self) -> Option<u8> {
        self.brightness.load(Relaxed).checked_sub(1).and_then(|value| u8::try_from(value).ok())
    }
}

/// The last motion that the sensor or a camera saw, and the brightness of the darkest picture: the light serves all cameras.
fn last_motion_and_brightness(shared: &Shared) -> (Option<Mono>, Option<u8>) {
    let pictures = shared.cameras.iter().map(|camera| &camera.motion_and_light);
    let motion = pictures.clone().map(MotionAndLight::last_motion).max().flatten();
    let brightness = pictures.filter_map(MotionAndLight::last_brightness).min();
    (motion.max(shared.motion_sensor.last_sensed()), brightness)
}

fn when(at: &AtomicU64) -> Option<Mono> {
    match at.load(Relaxed) {
        0 => None,
        nanos => Some(Mono::from_nanos(nanos)),
    }
}

/// The pins in use.
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

/// Drives the pins until the process ends; does nothing if none is configured. Never returns.
pub(super) async fn operate(shared: &Shared) {
    let params = &shared.config.pins;
    if [params.status_led, params.motion_sensor, params.light].iter().all(Option::is_none) {
        return futures_lite::future::pending().await;
    }
    let mut timer = smol::Timer::interval(POLL);
    let mut light = Light::new(params.lighting);
    let mut monitor = ConditionMonitor::new(shared.started);
    let mut taken = None;
    let mut retry_at = Mono::ZERO;
    let mut is_logged = false;
    loop {
        let now = shared.clock.mono();
        let failed = match &mut taken {
            Some(pins) => poll(pins, shared, &mut light, monitor.condition(shared, now), now).err(),
            None if now < retry_at => None,
            None => match Taken::take(params) {
                Ok(pins) => {
                    (taken, is_logged) = (Some(pins), false);
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = failed {
            (taken, retry_at) = (None, now + RETRY);
            if !std::mem::replace(&mut is_logged, true) {
                tracing::warn!("{error}; continuing without pins, trying again each minute");
                shared.post_own(Body::Degraded { reason: fixed(&error.to_string()) });
            }
        }
        timer.next().await;
    }
}

/// One poll.
fn poll(pins: &mut Taken, shared: &Shared, light: &mut Light, condition: Condition, now: Mono) -> Result<()> {
    if let Some((sensor, inverted)) = &pins.motion_sensor
        && sensor.level()? != *inverted
    {
        shared.motion_sensor.0.store(now.as_nanos(), Relaxed);
    }
    if let Some((led, inverted)) = &mut pins.status_led {
        led.set(lit(condition, now) != *inverted)?;
    }
    if let Some((lamp, inverted)) = &mut pins.light {
        let (motion, brightness) = last_motion_and_brightness(shared);
        light.set(shared.live().lighting);
        let on = light.decide(now, motion, brightness);
        lamp.set(on != *inverted)?;
    }
    Ok(())
}

/// Derives the condition that the LED shows from counters.
struct ConditionMonitor {
    started: Mono,
    lost: u64,
    lost_at: Option<Mono>,
    failures: u64,
    delivered_at: Option<Mono>,
}

impl ConditionMonitor {
    fn new(started: Mono) -> Self {
        ConditionMonitor { started, lost: 0, lost_at: None, failures: 0, delivered_at: None }
    }

    fn condition(&mut self, shared: &Shared, now: Mono) -> Condition {
        let counters = shared.outbox.counters();
        let undelivered = counters.dropped() + counters.refused() + shared.spool.losses();
        let corrupt: u64 = shared.cameras.iter().map(|camera| camera.metrics.frames_corrupt.get()).sum();
        let lost = corrupt + undelivered;
        if lost > self.lost {
            (self.lost, self.lost_at) = (lost, Some(now));
        }
        let delivered_at = counters.last_delivery();
        if delivered_at != self.delivered_at {
            (self.failures, self.delivered_at) = (counters.failures(), delivered_at);
        }
        // One camera that fails is a failure.
        let last_frame = |camera: &CameraState| camera.metrics.last_frame().unwrap_or(self.started);
        let oldest = shared.cameras.iter().map(last_frame).min().unwrap_or(self.started);
        condition(&Health {
            frame_age: now.since(oldest),
            delivery_age: now.since(delivered_at.unwrap_or(self.started)),
            sends_fail: counters.failures() > self.failures,
            loses: self.lost_at.is_some_and(|at| now.since(at) < LOSS)
                || shared.alerts_active.load(Relaxed) > 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn motion_and_brightness_are_kept() {
        let at = |seconds: u64| Mono::from_nanos(seconds * 1_000_000_000);
        let state = MotionAndLight::default();
        assert_eq!((state.last_motion(), state.last_brightness()), (None, None));
        state.note_picture(at(5), false, 0);
        assert_eq!((state.last_motion(), state.last_brightness()), (None, Some(0)));
        state.note_picture(at(6), true, 255);
        assert_eq!((state.last_motion(), state.last_brightness()), (Some(at(6)), Some(255)));
    }
}
