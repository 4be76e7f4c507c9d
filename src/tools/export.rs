//! Simulated streets as files, for training and measuring: labelled pictures in a folder, and a video with the truth beside it. The work of
//! `flytrap sim --export` and `--video`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::labelled::CLASSES_FILE;
use crate::analytics::count;
use crate::base::error::cannot_write;
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::PixelFormat;
use crate::sim::judge::{Crossed, Judge};
use crate::sim::labels::{Coco, Line, yolo};
use crate::sim::pixels;
use crate::sim::random::mix;
use crate::sim::scene::{Scene, SceneParams};
use crate::sim::source::SimSpec;
use crate::sim::traffic::Kind as Class;
use crate::vision::draw::Canvas;

/// Pictures of one street before the next one begins.
const PICTURES_PER_STREET: usize = 5;
/// Time between two pictures of a street, seconds: most of what moves has moved on.
const SECONDS_APART: f64 = 3.1;

/// What to write.
#[derive(Debug, Clone)]
pub struct Params {
    /// The streets; each gets its own seed, derived from this one.
    pub scene: SceneParams,
    /// How many pictures.
    pub pictures: usize,
    /// Output folder: `images/`, `labels/` and `instances.json` are created in it.
    pub folder: PathBuf,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// Pictures.
    pub pictures: usize,
    /// Labelled objects that a detector should find.
    pub objects: usize,
    /// Folder of the pictures.
    pub folder: String,
}

/// Renders, and calls back after each picture with the number done and the total.
///
/// # Errors
/// `Kind::Config`: a setting out of range, a folder with pictures. `Kind::System`: something cannot be written.
pub fn export(params: &Params, on: &mut dyn FnMut(usize, usize)) -> Result<ExportReport> {
    let (images, labels) = (params.folder.join("images"), params.folder.join("labels"));
    for folder in [&images, &labels] {
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
        // Old pictures among the new ones would have no labels in `instances.json`.
        if std::fs::read_dir(folder).map_err(|error| cannot_write(folder, error))?.next().is_some() {
            let text = format!("'{}' is not empty: empty it, or name another folder", folder.display());
            return Err(Error::fatal(Kind::Config, text));
        }
    }
    let size = [params.scene.width, params.scene.height];
    let mut coco = Coco::default();
    let mut written = 0;
    for street in 0..params.pictures.div_ceil(PICTURES_PER_STREET) {
        let seed = mix(params.scene.seed.wrapping_mul(1_000_003) ^ street as u64);
        let mut scene = Scene::new(&SceneParams { seed, ..params.scene })?;
        let mut rgb = vec![0; scene.picture_bytes()];
        for index in 0..PICTURES_PER_STREET.min(params.pictures - written) {
            let truth = scene.render(index as f64 * SECONDS_APART, &mut rgb);
            let name = format!("{written:06}");
            let picture = images.join(format!("{name}.jpg"));
            let jpeg = Canvas::from_rgb(size[0] as usize, size[1] as usize, rgb.clone())
                .ok_or_else(|| "its size changed".to_owned())
                .and_then(|canvas| canvas.to_jpeg())
                .map_err(|why| Error::fatal(Kind::System, format!("'{}': {why}", picture.display())))?;
            write(&picture, &jpeg)?;
            write(&labels.join(format!("{name}.txt")), yolo(truth, size).as_bytes())?;
            coco.add(format!("{name}.jpg"), size, truth);
            written += 1;
            on(written, params.pictures);
        }
    }
    let names: Vec<&str> = Class::ALL.map(Class::name).into();
    write(&labels.join(CLASSES_FILE), (names.join("\n") + "\n").as_bytes())?;
    let yaml = format!(
        "# For Ultralytics: yolo train data=data.yaml\npath: .\ntrain: images\nval: images\nnames: [{}]\n",
        names.join(", ")
    );
    write(&params.folder.join("data.yaml"), yaml.as_bytes())?;
    let place = params.folder.join("instances.json");
    let text = serde_json::to_vec(&coco)
        .map_err(|error| Error::fatal(Kind::System, "labels as JSON").caused_by(error))?;
    write(&place, &text)?;
    Ok(ExportReport {
        pictures: written,
        objects: coco.objects(),
        folder: params.folder.display().to_string(),
    })
}

/// Length of a video whose scene has no end of its own, seconds.
const SECONDS: f64 = 60.0;

/// A video that was written.
#[derive(Debug, Clone, Serialize)]
pub struct Video {
    /// How many frames.
    pub frames: u64,
    /// The file of frames: yuv4mpeg, or raw frames one after the other.
    pub file: String,
    /// The truth file, one line of JSON per frame.
    pub truth: String,
}

/// Writes a street frame by frame: as yuv4mpeg if the name ends in `.y4m`, otherwise as raw frames in the pixel format of `spec`; and
/// beside it the truth, `NAME.truth.ndjson`, whose last line has the crossings of `lines`. Calls back after each frame with the number done
/// and the total.
///
/// # Errors
/// `Kind::Config`: a setting out of range, yuv4mpeg with a pixel format other than I420. `Kind::System`: something cannot be written.
pub fn video(
    spec: &SimSpec,
    lines: &[count::CountingLine],
    path: &Path,
    on: &mut dyn FnMut(usize, usize),
) -> Result<Video> {
    let format = spec.format()?;
    let is_y4m = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("y4m"));
    if is_y4m && spec.pixel != PixelFormat::I420 {
        let text = format!("'{}': yuv4mpeg needs pixels of i420, not {}", path.display(), spec.pixel);
        return Err(Error::fatal(Kind::Config, text));
    }
    let mut scene = Scene::new(&spec.scene)?;
    let truth_path = path.with_extension("truth.ndjson");
    let create =
        |path: &Path| File::create(path).map(BufWriter::new).map_err(|error| cannot_write(path, error));
    let (mut out, mut truth) = (create(path)?, create(&truth_path)?);
    let full = |error| cannot_write(path, error);
    let mut write = |line: serde_json::Result<String>| {
        let line = line.map_err(|error| Error::fatal(Kind::System, "the truth as JSON").caused_by(error))?;
        writeln!(truth, "{line}").map_err(|error| cannot_write(&truth_path, error))
    };
    let mut judge = Judge::new(lines, scene.setting().view(), format.width, format.height);
    if is_y4m {
        out.write_all(pixels::y4m_head(&format, spec.fps).as_bytes()).map_err(full)?;
    }
    let mut rgb = vec![0; scene.picture_bytes()];
    let mut bytes = vec![0; format.slot_bytes()];
    let frames = (spec.seconds.unwrap_or(SECONDS) * spec.fps.as_f64()).ceil() as u64;
    for frame in 0..frames {
        let seconds = spec.fps.offset(frame).as_secs_f64();
        let seen = scene.render(seconds, &mut rgb);
        judge.see(seen);
        write(serde_json::to_string(&Line::new(frame, seconds, seen, format.width)))?;
        let used = pixels::write(&format, &rgb, &mut bytes)
            .ok_or_else(|| Error::fatal(Kind::System, "a frame does not fit into its own room"))?;
        if is_y4m {
            out.write_all(b"FRAME\n").map_err(full)?;
        }
        out.write_all(&bytes[..used]).map_err(full)?;
        on(frame as usize + 1, frames as usize);
    }
    write(serde_json::to_string(&Crossings { crossings: crossings(lines, &judge) }))?;
    out.flush().map_err(full)?;
    truth.flush().map_err(|error| cannot_write(&truth_path, error))?;
    Ok(Video { frames, file: path.display().to_string(), truth: truth_path.display().to_string() })
}

/// The last line of a video's truth.
#[derive(Debug, Serialize)]
struct Crossings {
    crossings: Vec<Crossing>,
}

#[derive(Debug, Serialize)]
struct Crossing {
    line: String,
    direction: String,
    class: &'static str,
    count: u64,
}

fn crossings(lines: &[count::CountingLine], judge: &Judge) -> Vec<Crossing> {
    let crossing = |((line, direction, class), count): (&Crossed, &u64)| Crossing {
        line: lines[*line].name.to_string(),
        direction: lines[*line].direction_name(*direction).to_string(),
        class: class.name(),
        count: *count,
    };
    judge.counts().iter().map(crossing).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| cannot_write(path, error))
}
