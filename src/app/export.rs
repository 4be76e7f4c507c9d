//! Labelled pictures of simulated streets in a folder, to train detectors on and to measure them with: what
//! `flytrap sim --export` does.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cannot_write;
use crate::draw::Canvas;
use crate::error::{Error, Kind, Result};
use crate::sim::labels::{Coco, yolo};
use crate::sim::random::mix;
use crate::sim::scene::{Scene, SceneParams};

/// Pictures of one street, before the next.
const PICTURES_PER_STREET: usize = 5;
/// Between two pictures of a street, seconds: most of what moves has moved on.
const SECONDS_APART: f64 = 3.1;

/// What is written.
#[derive(Debug, Clone)]
pub struct Params {
    /// The streets; each has a seed of its own that follows from this one's.
    pub scene: SceneParams,
    /// How many pictures.
    pub pictures: usize,
    /// Where to: `images/`, `labels/` and `instances.json` are made in it.
    pub folder: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Pictures.
    pub pictures: usize,
    /// Objects that can be asked for.
    pub objects: usize,
    /// Where.
    pub folder: String,
}

/// Draws, and tells after each picture how many there are of how many.
///
/// # Errors
/// `Kind::Config`: a setting out of range, a folder with pictures. `Kind::System`: something cannot be written.
pub fn export(params: &Params, on: &mut dyn FnMut(usize, usize)) -> Result<Done> {
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
                .ok_or_else(|| "of another size".to_owned())
                .and_then(|canvas| canvas.to_jpeg())
                .map_err(|why| Error::fatal(Kind::System, format!("'{}': {why}", picture.display())))?;
            write(&picture, &jpeg)?;
            write(&labels.join(format!("{name}.txt")), yolo(truth, size).as_bytes())?;
            coco.add(format!("{name}.jpg"), size, truth);
            written += 1;
            on(written, params.pictures);
        }
    }
    let place = params.folder.join("instances.json");
    let text = serde_json::to_vec(&coco)
        .map_err(|error| Error::fatal(Kind::System, "labels as JSON").caused_by(error))?;
    write(&place, &text)?;
    Ok(Done { pictures: written, objects: coco.objects(), folder: params.folder.display().to_string() })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| cannot_write(path, error))
}
