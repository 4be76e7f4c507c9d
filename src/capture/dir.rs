//! `dir:` - the pictures of a folder, in the order of their names.
//!
//! The folder is listed once, when it is opened, and every header looked at; a picture that is added later is not seen.
//! Baseline JPEGs go straight into the caller's buffer; PNGs and progressive JPEGs are decoded on the heap, one at a time.
//! Never looks into folders below.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mjpeg_stream::{Head, jpeg_head};
use super::rate::{FrameRate, Timeline};
use super::{Advance, AtEnd, CaptureParams, ColorOverride, Filled, FrameSource, picture};
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{FrameFormat, PixelFormat};
use crate::platform::clock::Clock;

/// Most pictures of a folder: their names are kept in memory, and each header is read when it is opened.
pub const PICTURES_MAX: usize = 100_000;

/// A folder of pictures.
pub struct DirSource {
    pictures: Vec<Entry>,
    format: FrameFormat,
    slot_bytes: usize,
    timeline: Timeline,
    at_end: AtEnd,
    color: ColorOverride,
    next: usize,
    /// The picture that was announced and not read.
    announced: Option<usize>,
    over: bool,
}

/// A picture and whether its header promised a baseline JPEG.
struct Entry {
    path: PathBuf,
    baseline: bool,
}

impl DirSource {
    /// Lists `.jpg`, `.jpeg` and `.png` in `path` (in any case) and looks at their headers. What turns out to be no picture
    /// is reported when its turn comes.
    ///
    /// # Errors
    /// Fatal with the remedy: no such folder, none of these files, none with a good header, more than [`PICTURES_MAX`].
    pub fn open(path: &Path, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let fatal = |text: &str| Error::fatal(Kind::Source, format!("folder '{}': {text}", path.display()));
        let mut pictures = Vec::new();
        let unread = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotADirectory {
                return fatal("is no folder: use file: for a recording");
            }
            fatal("cannot be listed: check the path and its rights").caused_by(error)
        };
        for entry in std::fs::read_dir(path).map_err(unread)? {
            let path = entry.map_err(unread)?.path();
            if is_picture_name(&path) && !path.is_dir() {
                if pictures.len() == PICTURES_MAX {
                    return Err(fatal(&format!("has more than {PICTURES_MAX} pictures: split it")));
                }
                pictures.push(Entry { path, baseline: false });
            }
        }
        if pictures.is_empty() {
            return Err(fatal("has no .jpg, .jpeg or .png in it"));
        }
        pictures.sort_by(|a, b| a.path.cmp(&b.path));
        let (mut format, mut slot_bytes, mut first_error) = (None::<FrameFormat>, 0, None);
        for entry in &mut pictures {
            match picture::announced(&entry.path) {
                Ok(found) => {
                    entry.baseline = found.format.pixel == PixelFormat::Mjpeg;
                    slot_bytes = slot_bytes.max(found.bytes);
                    format = Some(format.map_or(found.format, |format| around(&format, &found.format)));
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        let Some(mut format) = format else {
            let error = fatal("none of its pictures can be read");
            return Err(match first_error {
                Some(first) => error.caused_by(first),
                None => error,
            });
        };
        format.color = params.color.apply(format.color);
        let rate = params.fps.unwrap_or(FrameRate::whole(1));
        Ok(DirSource {
            pictures,
            slot_bytes: slot_bytes.max(format.slot_bytes()),
            format,
            timeline: Timeline::new(clock, params.stop.clone(), params.timing, rate),
            at_end: params.at_end,
            color: params.color,
            next: 0,
            announced: None,
            over: false,
        })
    }
}

impl FrameSource for DirSource {
    fn format(&self) -> &FrameFormat {
        &self.format
    }

    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        self.announced = None;
        if self.next == self.pictures.len() {
            match self.at_end {
                AtEnd::Stop => self.over = true,
                AtEnd::Loop => self.next = 0,
            }
        }
        if self.over {
            return Ok(Advance::End);
        }
        if !self.timeline.wait_due(patience) {
            return Ok(Advance::Idle);
        }
        self.announced = Some(self.next);
        self.next += 1;
        Ok(Advance::Frame(self.timeline.stamp_by_rate()))
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        let Some(entry) = self.announced.take().and_then(|at| self.pictures.get(at)) else {
            return Err(Error::degrade(Kind::Source, "folder: no picture was announced"));
        };
        let mut filled = match entry.baseline {
            true => read_jpeg(&entry.path, buffer),
            false => load_into(&entry.path, buffer),
        }?;
        filled.format.color = self.color.apply(filled.format.color);
        Ok(filled)
    }
}

impl std::fmt::Debug for DirSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirSource({} pictures, {})", self.pictures.len(), self.format)
    }
}

/// A format at least as wide, as high and as costly to decode as both.
fn around(a: &FrameFormat, b: &FrameFormat) -> FrameFormat {
    let (width, height) = (a.width.max(b.width), a.height.max(b.height));
    let mjpeg = [a, b].into_iter().find(|format| format.pixel == PixelFormat::Mjpeg);
    // MJPEG has no rows in memory, the rows of the others are packed RGB.
    let row_bytes = if mjpeg.is_some() { 0 } else { width * 3 };
    FrameFormat { width, height, row_bytes, ..*mjpeg.unwrap_or(a) }
}

fn is_picture_name(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// A baseline JPEG, straight into the buffer. The file may have changed since it was listed, so its header counts anew.
fn read_jpeg(path: &Path, buffer: &mut [u8]) -> Result<Filled> {
    let refuse = |why: &str| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let unread = |error: std::io::Error| refuse("cannot be read").caused_by(error);
    let mut file = File::open(path).map_err(unread)?;
    let mut used = 0;
    loop {
        if used == buffer.len() {
            match file.read(&mut [0]).map_err(unread)? {
                0 => break,
                _ => return Err(refuse(&format!("has more than the {} bytes of room", buffer.len()))),
            }
        }
        match file.read(&mut buffer[used..]) {
            Ok(0) => break,
            Ok(count) => used += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unread(error)),
        }
    }
    match jpeg_head(&buffer[..used]) {
        Head::Info(info) if info.baseline => {
            let format = info.format(ColorOverride::default()).map_err(|why| refuse(&why))?;
            Ok(Filled { format, bytes_used: used })
        }
        Head::Info(_) | Head::More | Head::Broken(_) => Err(refuse("is no baseline JPEG any more")),
    }
}

/// Any other picture, by way of the heap.
fn load_into(path: &Path, buffer: &mut [u8]) -> Result<Filled> {
    let picture = picture::load(path)?;
    let used = picture.bytes.len();
    let Some(target) = buffer.get_mut(..used) else {
        let text = format!("picture '{}': {used} bytes, but only {} of room", path.display(), buffer.len());
        return Err(Error::degrade(Kind::Source, text));
    };
    target.copy_from_slice(&picture.bytes);
    Ok(Filled { format: picture.format, bytes_used: used })
}

#[cfg(test)]
mod tests {
    use super::super::mjpeg_stream::tests::skeleton;
    use super::super::picture::tests::png;
    use super::*;
    use crate::base::error::Class;
    use crate::platform::clock::Mono;
    use crate::platform::clock::fake::FakeClock;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("b.JPG", &skeleton(64, 48, 1));
        write("a.png", &png(80, 60, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]));
        write("c.jpeg", b"not a picture");
        write("d.jpg", &skeleton(32, 32, 2));
        write("notes.txt", b"ignored");
        std::fs::create_dir(dir.path().join("e.png")).unwrap();
        dir
    }

    fn at(nanos: u64) -> Mono {
        Mono::from_nanos(nanos)
    }

    #[test]
    fn pictures_come_by_name_a_second_each_and_a_bad_one_costs_itself() {
        let dir = folder();
        let clock = Arc::new(FakeClock::default());
        clock.set(at(5_000_000_000));
        let params = CaptureParams { at_end: AtEnd::Loop, ..CaptureParams::default() };
        let mut source = DirSource::open(dir.path(), &params, clock).unwrap();
        // As large as the PNG, and JPEGs are among them.
        let FrameFormat { pixel, width, height, row_bytes, .. } = *source.format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Mjpeg, 80, 60, 0));
        assert!(source.slot_bytes() >= 80 * 60 * 3);
        let mut buffer = vec![0; source.slot_bytes()];
        for seq in 0..8u64 {
            let Advance::Frame(meta) = source.advance(Duration::ZERO).unwrap() else { panic!("frame {seq}") };
            assert_eq!((meta.seq, meta.captured_at), (seq, at((5 + seq) * 1_000_000_000)));
            let filled = source.read_into(&mut buffer);
            match seq % 4 {
                0 => {
                    let filled = filled.unwrap();
                    assert_eq!((filled.format.pixel, filled.bytes_used), (PixelFormat::Rgb24, 80 * 60 * 3));
                    assert_eq!(buffer[..6], [1, 2, 3, 1, 2, 3]);
                }
                1 => {
                    let filled = filled.unwrap();
                    assert_eq!((filled.format.pixel, filled.format.width), (PixelFormat::Mjpeg, 64));
                    assert_eq!(&buffer[..filled.bytes_used], skeleton(64, 48, 1));
                }
                2 => {
                    let error = filled.unwrap_err();
                    assert_eq!(error.class(), Class::Degrade);
                    assert!(
                        error.to_string().contains("c.jpeg") && error.to_string().contains("not a pictur"),
                        "{error}"
                    );
                }
                _ => assert_eq!(filled.unwrap().format.width, 32),
            }
            assert_eq!(source.read_into(&mut buffer).unwrap_err().class(), Class::Degrade, "once a frame");
        }
    }

    #[test]
    fn it_ends_and_stays_ended() {
        let dir = folder();
        let mut source =
            DirSource::open(dir.path(), &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap();
        let frames =
            (0..10).filter(|_| matches!(source.advance(Duration::ZERO).unwrap(), Advance::Frame(_))).count();
        assert_eq!(frames, 4);
        assert_eq!(source.advance(Duration::ZERO).unwrap(), Advance::End);
    }

    #[test]
    fn a_picture_that_changed_is_refused_not_misread() {
        let dir = folder();
        let mut source =
            DirSource::open(dir.path(), &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap();
        source.advance(Duration::ZERO).unwrap();
        source.advance(Duration::ZERO).unwrap();
        let mut buffer = vec![0; source.slot_bytes()];
        std::fs::write(dir.path().join("b.JPG"), vec![0xFF; buffer.len() + 1]).unwrap();
        assert!(source.read_into(&mut buffer).unwrap_err().to_string().contains("of room"));
        source.advance(Duration::ZERO).unwrap();
        source.advance(Duration::ZERO).unwrap();
        std::fs::write(dir.path().join("d.jpg"), b"gone").unwrap();
        assert!(source.read_into(&mut buffer).unwrap_err().to_string().contains("any more"));
    }

    #[test]
    fn the_format_bounds_every_picture() {
        let dir = tempfile::tempdir().unwrap();
        let rgb = |name: &str, width, height| {
            let png = png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]);
            std::fs::write(dir.path().join(name), png).unwrap();
        };
        let format = || {
            let params = CaptureParams::default();
            *DirSource::open(dir.path(), &params, Arc::new(FakeClock::default())).unwrap().format()
        };
        rgb("wide.png", 100, 20);
        rgb("high.png", 30, 90);
        let FrameFormat { pixel, width, height, row_bytes, .. } = format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Rgb24, 100, 90, 300));
        std::fs::write(dir.path().join("a.jpg"), skeleton(16, 200, 1)).unwrap();
        let FrameFormat { pixel, width, height, row_bytes, .. } = format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Mjpeg, 100, 200, 0));
    }

    #[test]
    fn folders_without_pictures_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| {
            DirSource::open(path, &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap_err()
        };
        assert!(open(dir.path()).to_string().contains("no .jpg"));
        assert!(open(&dir.path().join("absent")).to_string().contains("check the path"));
        let file = dir.path().join("x.jpg");
        std::fs::write(&file, b"text").unwrap();
        let error = open(dir.path());
        assert!(
            error.to_string().contains("none of its pictures") && error.to_string().contains("x.jpg"),
            "{error}"
        );
        assert!(open(&file).to_string().contains("is no folder"));
        assert_eq!(error.class(), Class::Fatal);
    }
}
