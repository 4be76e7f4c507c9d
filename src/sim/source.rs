//! `sim:` - a simulated street in place of a camera.

use std::sync::Arc;
use std::time::Duration;

use super::pixels;
use super::scene::{Hour, Scene, SceneParams, Weather};
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{Color, FrameFormat, PixelFormat};
use crate::capture::rate::{FrameRate, Timeline};
use crate::capture::{Advance, CaptureParams, Filled, FrameSource};
use crate::platform::clock::Clock;

/// Parsed options of a `sim:` source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimSpec {
    /// The scene.
    pub scene: SceneParams,
    /// Frames per second.
    pub fps: FrameRate,
    /// Pixel format of the frames.
    pub pixel: PixelFormat,
    /// The source ends after this many seconds; none: never.
    pub seconds: Option<f64>,
}

/// The options, for error messages.
const WORDS: &str = "a seed, day, dusk, night, clear, overcast, rain, snow, fog, calm, size=640x360, fps=10, traffic=1.5, \
     pixel=i420, seconds=60; as in sim:7,night,rain,fps=15";

impl SimSpec {
    /// Parses the part after `sim:`, options separated by commas.
    ///
    /// # Errors
    /// `Kind::Config`, fatal: an unknown option, with the list of all options.
    pub fn parse(text: &str) -> Result<Self> {
        let mut spec = SimSpec {
            scene: SceneParams::default(),
            fps: FrameRate::whole(10),
            pixel: PixelFormat::I420,
            seconds: None,
        };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            spec.word(word).ok_or_else(|| {
                Error::fatal(
                    Kind::Config,
                    format!("source 'sim:{text}': '{word}' is not understood: write {WORDS}"),
                )
            })?;
        }
        spec.scene.complete()?;
        Ok(spec)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        if let Some((_, hour)) = Hour::ALL.into_iter().find(|(name, _)| *name == word) {
            self.scene.hour = Some(hour);
        } else if let Some((_, weather)) = Weather::ALL.into_iter().find(|(name, _)| *name == word) {
            self.scene.weather = Some(weather);
        } else if word == "calm" {
            self.scene.calm = true;
        } else if let Ok(seed) = word.parse() {
            self.scene.seed = seed;
        } else {
            let (key, value) = word.split_once('=')?;
            match key {
                "seed" => self.scene.seed = value.parse().ok()?,
                "fps" => self.fps = value.parse().ok()?,
                "traffic" => self.scene.traffic = Some(value.parse().ok()?),
                "pixel" => self.pixel = PixelFormat::from_name(value)?,
                "seconds" => {
                    let seconds: f64 = value.parse().ok()?;
                    self.seconds = Some(Some(seconds).filter(|s| s.is_finite() && *s > 0.0)?);
                }
                "size" => {
                    let (width, height) = value.split_once('x')?;
                    (self.scene.width, self.scene.height) = (width.parse().ok()?, height.parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// Format of its frames.
    ///
    /// # Errors
    /// `Kind::Config`: an unsupported size.
    pub fn format(&self) -> Result<FrameFormat> {
        let (width, height) = (self.scene.width, self.scene.height);
        let color = match self.pixel {
            PixelFormat::Yuyv | PixelFormat::Uyvy => Color::default(),
            PixelFormat::Nv12 | PixelFormat::I420 => Color::guess_for_video(width, height),
            PixelFormat::Grey | PixelFormat::Rgb24 | PixelFormat::Mjpeg => Color::JPEG,
        };
        FrameFormat::packed(self.pixel, width, height, color)
            .map_err(|error| Error::fatal(Kind::Config, "simulated street: size").caused_by(error))
    }
}

/// A street whose frames are rendered when they are read.
pub struct SimSource {
    scene: Scene,
    format: FrameFormat,
    fps: FrameRate,
    frames: Option<u64>,
    timeline: Timeline,
    rgb: Vec<u8>,
    announced: Option<u64>,
}

impl SimSource {
    /// Builds the street.
    ///
    /// # Errors
    /// As [`SimSpec::parse`] and [`SimSpec::format`].
    pub fn open(text: &str, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let spec = SimSpec::parse(text)?;
        let fps = params.fps.unwrap_or(spec.fps);
        let scene = Scene::new(&spec.scene)?;
        // Not of zeros, whose pages would be allocated only with the first picture, after the memory plan was checked.
        let rgb = vec![1; scene.picture_bytes()];
        Ok(SimSource {
            format: spec.format()?,
            fps,
            frames: spec.seconds.map(|seconds| (seconds * fps.as_f64()).ceil() as u64),
            timeline: Timeline::new(clock, params.stop.clone(), params.timing, fps),
            rgb,
            announced: None,
            scene,
        })
    }
}

impl FrameSource for SimSource {
    fn format(&self) -> &FrameFormat {
        &self.format
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        self.announced = None;
        if self.frames.is_some_and(|frames| self.timeline.count() >= frames) {
            return Ok(Advance::End);
        }
        if !self.timeline.wait_due(patience) {
            return Ok(Advance::Idle);
        }
        let meta = self.timeline.stamp_by_rate();
        self.announced = Some(meta.seq);
        Ok(Advance::Frame(meta))
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        let Some(seq) = self.announced.take() else {
            return Err(Error::degrade(Kind::Source, "simulated street: no frame was announced"));
        };
        self.scene.render(self.fps.offset(seq).as_secs_f64(), &mut self.rgb);
        let bytes_used = pixels::write(&self.format, &self.rgb, buffer).ok_or_else(|| {
            Error::degrade(
                Kind::Source,
                format!("simulated street: a frame does not fit into {} bytes", buffer.len()),
            )
        })?;
        Ok(Filled { format: self.format, bytes_used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::SystemClock;

    #[test]
    fn options_are_parsed_or_named_in_the_error() {
        let spec =
            SimSpec::parse("7, night,rain,size=320x180,fps=12.5,traffic=0.5,pixel=nv12,seconds=3,calm")
                .unwrap();
        let SceneParams { seed, width, height, hour, weather, traffic, calm, .. } = spec.scene;
        assert_eq!((seed, width, height, traffic, calm), (7, 320, 180, Some(0.5), true));
        assert_eq!((hour, weather), (Some(Hour::Night), Some(Weather::Rain)));
        assert_eq!((spec.pixel, spec.seconds), (PixelFormat::Nv12, Some(3.0)));
        for (text, word) in [
            ("1,sunny", "'sunny'"),
            ("fps=0", "'fps=0'"),
            ("size=321x180", "width is 321"),
            ("traffic=9", "traffic is 9"),
        ] {
            let error = SimSpec::parse(text).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_street_is_a_recording_that_ends_and_repeats() {
        let pictures = |pixel: &str| {
            let text = format!("3,size=160x96,seconds=0.5,pixel={pixel}");
            let mut source =
                SimSource::open(&text, &CaptureParams::default(), Arc::new(SystemClock)).unwrap();
            let mut buffer = vec![0; source.slot_bytes()];
            let mut pictures = Vec::new();
            while let Advance::Frame(meta) = source.advance(Duration::ZERO).unwrap() {
                assert_eq!(meta.seq, pictures.len() as u64);
                let filled = source.read_into(&mut buffer).unwrap();
                assert!(source.read_into(&mut buffer).is_err(), "once a frame");
                pictures.push(buffer[..filled.bytes_used].to_vec());
            }
            pictures
        };
        let first = pictures("i420");
        assert_eq!(first.len(), 5);
        assert_eq!(first, pictures("i420"));
        assert_ne!(first[0], first[4], "something moves");
        assert_eq!(pictures("mjpeg").len(), 5);
    }
}
