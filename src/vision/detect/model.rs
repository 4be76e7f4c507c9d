//! Model files: trust (sha256), class names and input size.
//!
//! A model file is untrusted input (I8): it loads only if its hash is in `models/manifest.toml`, which is compiled into the program, or in
//! the configuration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ClassId;
use super::accuracy::{self, Accuracy};
use super::builtin;
use super::calibration::Calibration;
use super::engine::tract::{InputSides, Parsed};
use super::engine::{self, Costs, Engine, EngineParams, Precision, Shape};
use super::letterbox::{Size, rectangle_for};
use super::trial;
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{CLASSES_MAX, MODEL_FILE_BYTES_MAX, MODEL_SIDE_MAX};
use crate::base::text::{Name, fixed};

/// The name of the detector that ships with the program, in the configuration: `model.path = "builtin"`.
pub const BUILTIN: &str = "builtin";

/// Maximum length of the task in an error, characters.
const TASK_CHARS_MAX: usize = 40;

/// Which model to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// The ONNX file, or [`BUILTIN`].
    pub path: PathBuf,
    /// The hash of a file that the user trusts, lower-case hex; `None`: only what the manifest lists.
    pub sha256: Option<String>,
    /// Engine settings.
    pub engine: EngineParams,
    /// The ranges for [`Precision::Int8`]: a file of `flytrap calibrate`; `None`: the one beside the model.
    pub ranges: Option<PathBuf>,
    /// The program that first tries a model which the manifest does not list, in a process of its own: [`trial`]. `None`: no trial, and
    /// whatever such a file does to tract (a panic, taking all memory) happens in this process.
    pub trial: Option<PathBuf>,
}

impl Params {
    /// Path of the ranges.
    pub fn ranges(&self) -> PathBuf {
        self.ranges.clone().unwrap_or_else(|| self.path.with_extension("int8.toml"))
    }
}

/// The names of a model's classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes(Vec<Name>);

impl Classes {
    /// Number of classes.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The name of a class; `?` for one that the model does not have.
    pub fn name(&self, class: ClassId) -> &str {
        self.0.get(usize::from(class.0)).map_or("?", |name| name.as_str())
    }

    /// The class of that name.
    pub fn find(&self, name: &str) -> Option<ClassId> {
        self.0.iter().position(|have| have == name).map(|index| ClassId(index as u16))
    }

    /// All names in the order of the model.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Name::as_str)
    }

    /// The classes from Ultralytics' metadata, a Python dictionary `{0: 'person', 1: "driver's"}`.
    ///
    /// # Errors
    /// What is wrong with it, without the file's name.
    pub fn from_metadata(text: &str) -> std::result::Result<Self, String> {
        let mut names = Vec::new();
        let inner = text
            .trim()
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .ok_or("not a dictionary in braces")?;
        let mut rest = inner.trim();
        while !rest.is_empty() {
            let (index, after) = rest.split_once(':').ok_or("an entry without ':'")?;
            if index.trim().parse() != Ok(names.len()) {
                return Err(format!("class {} is missing or out of order", names.len()));
            }
            let (name, after) = quoted(after.trim_start())?;
            if names.len() == CLASSES_MAX {
                return Err(format!("more than {CLASSES_MAX} classes"));
            }
            if name.contains(char::is_control) {
                // It would reach terminals, logs and receivers unchanged.
                return Err(format!("the name of class {} has a control character", names.len()));
            }
            names.push(fixed(&name));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').map_or(rest, str::trim_start);
        }
        if names.is_empty() { Err("no classes".into()) } else { Ok(Classes(names)) }
    }
}

/// A Python string literal at the start of `text`, and the rest after it.
fn quoted(text: &str) -> std::result::Result<(String, &str), String> {
    let mut chars = text.char_indices();
    let quote = match chars.next() {
        Some((_, quote @ ('\'' | '"'))) => quote,
        Some(_) | None => return Err("a name without quotes".into()),
    };
    let mut name = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            c if c == quote => return Ok((name, &text[at + c.len_utf8()..])),
            c => name.push(c),
        }
    }
    Err("a name that does not end".into())
}

/// An entry of the manifest.
#[derive(Debug, Clone, Deserialize)]
pub struct KnownModel {
    /// Name for people.
    pub name: String,
    /// Lower-case hex.
    pub sha256: String,
    /// What `flytrap eval` has measured, noted for the built-in model.
    pub accuracy: Option<Accuracy>,
}

#[derive(Deserialize)]
struct Manifest {
    model: Vec<KnownModel>,
}

/// The models that this program knows.
pub fn manifest() -> Vec<KnownModel> {
    let manifest: Manifest =
        toml::from_str(include_str!("../../../models/manifest.toml")).expect("checked in, parsed by a test");
    manifest.model
}

/// A model file, read, trusted and parsed, but not yet planned for an input size. Clones share the parsed file.
#[derive(Clone)]
pub struct Loaded {
    parsed: Parsed,
    classes: Classes,
    sizing: Sizing,
    sha256: String,
    name: String,
    is_known: bool,
    file_bytes: usize,
    params: Params,
}

/// A planned model: its memory is known but not allocated.
pub struct Planned {
    network: engine::Planned,
    classes: Classes,
}

impl Planned {
    /// Properties that the stages around the network need.
    pub fn shape(&self) -> &Shape {
        self.network.shape()
    }

    /// Its memory and arithmetic; `None`: unknown before it has run (tract).
    pub fn costs(&self) -> Option<Costs> {
        self.network.costs()
    }

    /// Allocates the memory and starts the threads.
    ///
    /// # Errors
    /// `Kind::System`: the machine has no more threads.
    pub fn start(self) -> Result<(Box<dyn Engine>, Classes)> {
        Ok((self.network.start()?, self.classes))
    }
}

/// Which input sizes a model can have.
#[derive(Debug, Clone, Copy)]
pub struct Sizing {
    sides: InputSides,
    size_in_metadata: Option<Size>,
    stride: usize,
}

impl Sizing {
    /// Whether both of the input's sides are free, so that any size is possible.
    pub const fn is_dynamic(&self) -> bool {
        self.sides.height.is_none() && self.sides.width.is_none()
    }

    /// Input sides must be multiples of this.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// The input size for frames of that size: the model's own, or (free sides) the multiple-of-stride rectangle that fits the frame's
    /// aspect ratio, as long as the size in the metadata (640 without).
    ///
    /// # Errors
    /// `Kind::Model` if a side is above `MODEL_SIDE_MAX`.
    pub fn size_for(&self, frame: Size) -> Result<Size> {
        let own = self.size_in_metadata.unwrap_or(Size { width: 640, height: 640 });
        let fitting = rectangle_for(frame, own.width.max(own.height), self.stride);
        let size = Size {
            width: self.sides.width.unwrap_or(fitting.width),
            height: self.sides.height.unwrap_or(fitting.height),
        };
        if size.width.max(size.height) > MODEL_SIDE_MAX {
            let text = format!(
                "the model's input {size} is above {MODEL_SIDE_MAX} pixels a side; export a smaller one"
            );
            return Err(Error::fatal(Kind::Model, text));
        }
        Ok(size)
    }
}

impl Loaded {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// `Kind::Model`, fatal, one line with the file and the remedy: missing, too large, an unknown hash, not ONNX, not a detector of the
    /// YOLOv8/YOLO11 family.
    pub fn open(params: &Params) -> Result<Self> {
        let place = params.path.display().to_string();
        let wrong = |text: String| Error::fatal(Kind::Model, format!("model '{place}': {text}"));
        let bytes = match params.path.to_str() {
            Some(BUILTIN) => builtin::bytes(),
            Some(_) | None => read(&params.path)?,
        };
        let file_bytes = bytes.len();
        let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let known = manifest().into_iter().find(|known| known.sha256 == sha256).map(|known| known.name);
        let is_known = known.is_some();
        let name = trusted_name(&sha256, params.sha256.as_deref(), known).map_err(wrong)?;
        let parsed = Parsed::from_bytes(&bytes, &place)?;
        drop(bytes);
        if let Some(task) = parsed.metadata("task").filter(|task| *task != "detect") {
            let task: String = task.chars().filter(|c| !c.is_control()).take(TASK_CHARS_MAX).collect();
            return Err(wrong(format!(
                "it was made for the task '{task}'; flytrap needs one of task 'detect'"
            )));
        }
        let names = parsed.metadata("names").ok_or_else(|| {
            wrong(
                "its metadata has no class names ('names'); export it with Ultralytics, which writes them"
                    .into(),
            )
        })?;
        let classes = Classes::from_metadata(names)
            .map_err(|why| wrong(format!("its class names are malformed: {why}")))?;
        let sides = parsed.input_sides()?;
        if sides.channels.is_some_and(|channels| channels != 3) {
            return Err(wrong(
                "its input does not have 3 channels; flytrap needs a model for colour pictures".into(),
            ));
        }
        let size_in_metadata = parsed.metadata("imgsz").and_then(size_from_metadata);
        let stride =
            parsed.metadata("stride").and_then(|text| text.parse().ok()).filter(|s| (1..=256).contains(s));
        Ok(Loaded {
            parsed,
            classes,
            sizing: Sizing { sides, size_in_metadata, stride: stride.unwrap_or(32) },
            sha256,
            name,
            is_known,
            file_bytes,
            params: params.clone(),
        })
    }

    /// Its classes.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Hash of the file, lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Size of the file, bytes; that much memory is in use until the last clone is planned or dropped.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// The settings that it was opened with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What `flytrap eval` has measured of it in this precision: the manifest (the built-in model), or the file beside the model.
    pub fn accuracy(&self) -> Option<Accuracy> {
        let accuracy = if self.params.path.as_os_str() == BUILTIN {
            manifest().into_iter().find(|known| known.sha256 == self.sha256)?.accuracy
        } else {
            accuracy::load(&self.params.path, &self.sha256)
        };
        accuracy.filter(|accuracy| accuracy.precision == self.params.engine.precision.name())
    }

    /// The manifest's name, or that the user trusts it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which input sizes it can have; stays valid when the model is planned.
    pub const fn sizing(&self) -> Sizing {
        self.sizing
    }

    /// See [`Sizing::is_dynamic`].
    pub const fn is_dynamic(&self) -> bool {
        self.sizing.is_dynamic()
    }

    /// See [`Sizing::size_for`].
    ///
    /// # Errors
    /// As there.
    pub fn size_for(&self, frame: Size) -> Result<Size> {
        self.sizing.size_for(frame)
    }

    /// Input sides must be multiples of this.
    pub const fn stride(&self) -> usize {
        self.sizing.stride
    }

    /// Plans and starts the network for frames of that size.
    ///
    /// # Errors
    /// As [`Self::plan`] and [`Planned::start`].
    pub fn into_engine(self, frame: Size) -> Result<(Box<dyn Engine>, Classes)> {
        let size = self.size_for(frame)?;
        self.plan(&[size])?.start()
    }

    /// Plans the network for input sizes, the largest first; they share its weights. Only a file with free input sides has more than one.
    /// Frees the parsed file's memory on the way, unless there is another clone.
    ///
    /// # Errors
    /// `Kind::Model` if it cannot run, its head is not supported, or it failed its trial.
    pub fn plan(self, sizes: &[Size]) -> Result<Planned> {
        self.params.engine.check()?;
        self.try_first(sizes, trial::Executor::Any)?;
        let calibration = match self.params.engine.precision {
            Precision::Fp32 | Precision::Fp16 => None,
            Precision::Int8 => Some(Calibration::load(&self.params.ranges(), &self.sha256)?),
        };
        let ranges = calibration.as_ref().map(Calibration::ranges);
        let network = self.parsed.plan(sizes, self.classes.count(), self.params.engine, ranges)?;
        Ok(Planned { network, classes: self.classes })
    }

    /// Plans it for tract in any case: our own executor is compared with this.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn into_tract(self, frame: Size) -> Result<(Box<dyn Engine>, Classes)> {
        let size = self.size_for(frame)?;
        self.try_first(&[size], trial::Executor::Tract)?;
        let engine = self.parsed.into_tract(size, self.classes.count())?;
        Ok((Box::new(engine), self.classes))
    }

    /// A file that only the user trusts is planned and run in another process first.
    fn try_first(&self, sizes: &[Size], executor: trial::Executor) -> Result<()> {
        let Some(program) = self.params.trial.as_deref().filter(|_| !self.is_known) else { return Ok(()) };
        let (model, sha256) = (self.params.clone(), self.sha256.clone());
        trial::Trial { model, sha256, sizes: sizes.to_vec(), executor }.run_in_child(program)
    }
}

/// The name of a file of that hash, if the manifest (`known`) or the user trusts it.
fn trusted_name(
    sha256: &str,
    by_user: Option<&str>,
    known: Option<String>,
) -> std::result::Result<String, String> {
    match by_user {
        Some(word) if word == sha256 => Ok("trusted by model.sha256".into()),
        Some(word) => Err(format!("its sha256 is {sha256}, but the configuration says {word}: a wrong or damaged file?")),
        None => known.ok_or_else(|| {
            format!("its sha256 {sha256} is not among the models that flytrap knows; if you trust the file, set model.sha256 or --model-sha256 to it")
        }),
    }
}

/// The file's bytes, up to the limit.
fn read(path: &Path) -> Result<Vec<u8>> {
    let place = path.display();
    let failed = |error: std::io::Error| {
        let remedy = "check the path ('model.path' or --model)";
        Error::fatal(Kind::Model, format!("cannot read the model '{place}'; {remedy}")).caused_by(error)
    };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > MODEL_FILE_BYTES_MAX {
        let text = format!(
            "model '{place}' has {length} bytes, more than the {MODEL_FILE_BYTES_MAX} that flytrap reads"
        );
        return Err(Error::fatal(Kind::Model, text));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MODEL_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Ultralytics' `imgsz`: `[height, width]`, or one number.
fn size_from_metadata(text: &str) -> Option<Size> {
    let mut sides = text.trim().trim_start_matches('[').trim_end_matches(']').split(',');
    let height = sides.next()?.trim().parse().ok()?;
    let width = sides.next().map_or(Some(height), |side| side.trim().parse().ok())?;
    (1..=MODEL_SIDE_MAX).contains(&height).then_some(())?;
    (1..=MODEL_SIDE_MAX).contains(&width).then_some(Size { width, height })
}

/// The classes of that name; empty stays empty, which means all.
///
/// # Errors
/// `Kind::Config` if the model has none of them.
pub(crate) fn wanted_classes(names: &[String], classes: &Classes) -> Result<Vec<ClassId>> {
    let (found, unknown): (Vec<_>, Vec<_>) = names.iter().partition(|name| classes.find(name).is_some());
    if found.is_empty() && !names.is_empty() {
        let known: Vec<&str> = classes.names().take(20).collect();
        let more = if classes.count() > known.len() { ", …" } else { "" };
        return Err(Error::fatal(
            Kind::Config,
            format!(
                "the model has none of track.classes ({}): choose from {}{more}, or [] for all",
                names.join(", "),
                known.join(", ")
            ),
        ));
    }
    if !unknown.is_empty() {
        tracing::warn!(?unknown, "the model does not have these classes; they are ignored");
    }
    Ok(found.iter().filter_map(|name| classes.find(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn class_names_are_read_as_ultralytics_writes_them() {
        let classes =
            Classes::from_metadata(r#"{0: 'person', 1: "driver's", 2: 'a, b: c', 3: 'it\'s'}"#).unwrap();
        assert_eq!(classes.names().collect::<Vec<_>>(), ["person", "driver's", "a, b: c", "it's"]);
        assert_eq!(classes.find("driver's"), Some(ClassId(1)));
        assert_eq!((classes.find("lorry"), classes.name(ClassId(9))), (None, "?"));
        for (text, part) in [
            ("", "braces"),
            ("{}", "no classes"),
            ("{1: 'x'}", "class 0"),
            ("{0: 'x', 2: 'y'}", "class 1"),
            ("{0: x}", "quotes"),
            ("{0: 'x}", "does not end"),
            ("{0}", "':'"),
            ("{0: 'a\u{1b}[2J'}", "control character"),
        ] {
            let error = Classes::from_metadata(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_names_text_is_read_or_refused(text in "\\PC{0,80}", dict in "[{}0-9:'\", a\\\\]{0,60}") {
            let _outcome = (Classes::from_metadata(&text), Classes::from_metadata(&dict));
        }
    }

    #[test]
    fn the_manifest_parses_and_its_hashes_look_like_hashes() {
        let known = manifest();
        assert!(!known.is_empty());
        for model in known {
            assert!(
                model.sha256.len() == 64
                    && model.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{}",
                model.name
            );
        }
    }

    #[test]
    fn a_hash_is_trusted_by_the_manifest_or_the_user_and_by_nobody_else() {
        let known = manifest().remove(0);
        let (name, other) = (Some(known.name.clone()), "00".repeat(32));
        assert_eq!(trusted_name(&known.sha256, None, name.clone()), Ok(known.name));
        assert!(trusted_name(&other, None, None).unwrap_err().contains("--model-sha256"));
        assert!(trusted_name(&other, Some(&other), None).is_ok());
        assert!(trusted_name(&known.sha256, Some(&other), name).unwrap_err().contains("damaged"));
    }

    #[test]
    fn sizes_in_metadata_are_read_or_refused() {
        for (text, size) in [
            ("[384, 640]", Some((640, 384))),
            ("640", Some((640, 640))),
            ("[0, 640]", None),
            ("big", None),
            ("[640, 999999]", None),
        ] {
            assert_eq!(
                size_from_metadata(text),
                size.map(|(width, height)| Size { width, height }),
                "{text}"
            );
        }
    }

    fn refusal(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let opened = Loaded::open(&Params {
            path: file.path().into(),
            sha256: Some(sha256),
            engine: EngineParams::default(),
            ranges: None,
            trial: None,
        });
        opened.err().expect("refused").to_string()
    }

    #[test]
    fn files_that_are_not_models_are_refused_in_one_line() {
        for bytes in [&b""[..], b"hello, I am a text file", b"\x89PNG\r\n\x1a\n", &[0xff; 1000], &[0; 1000]] {
            let text = refusal(bytes);
            assert!(text.contains("format=onnx") && !text.contains('\n'), "{text}");
        }
        let missing = Loaded::open(&Params {
            path: "/nowhere/x.onnx".into(),
            sha256: None,
            engine: EngineParams::default(),
            ranges: None,
            trial: None,
        })
        .err()
        .unwrap();
        assert!(
            missing.to_string().contains("/nowhere/x.onnx") && missing.to_string().contains("--model"),
            "{missing}"
        );
        assert_eq!(missing.kind(), Kind::Model);
    }
}
