//! The use of tract: it reads and checks model files, and runs those that our own executor does not support.
//!
//! As an engine it keeps the optimised plan and one state; in each run tract allocates the output of each node (its crate has no arena
//! hook). `tests/no_alloc.rs` records the number of heap calls per frame, which does not grow.

use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::graph::Graph;
use super::import::import;
use super::kernels::Kernels;
use super::kernels::half::Half;
use super::plan::PlanBuilder;
use super::planned::PlannedEngine;
use super::{Engine, EngineParams, Output, Planned, Precision, Ranges, onnx};
use crate::base::error::{Error, Kind, Result};
use crate::vision::detect::decode::HeadShape;
use crate::vision::detect::letterbox::Size;

/// Maximum length of tract's own message in an error, characters.
const CAUSE_CHARS_MAX: usize = 400;

/// A parsed model file, before its input size is chosen. Clones share it: the file is parsed once, however many sizes are planned, and its
/// memory is freed with the last clone.
#[derive(Clone)]
pub struct Parsed {
    proto: Arc<ModelProto>,
    /// The path, for messages.
    place: String,
}

/// The first input of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputSides {
    /// Channels, if fixed.
    pub channels: Option<usize>,
    /// Height, if fixed.
    pub height: Option<usize>,
    /// Width, if fixed.
    pub width: Option<usize>,
}

impl Parsed {
    /// Parses the bytes of an ONNX file; `place` is its name in messages. A malformed file, or one that needs more memory than a detector's
    /// file, is refused before tract sees it: `onnx::check`.
    ///
    /// # Errors
    /// `Kind::Model` if the bytes are not an ONNX model that we load.
    pub fn from_bytes(bytes: &[u8], place: &str) -> Result<Self> {
        let refused = |why: String| {
            let text =
                format!("'{place}' is not an ONNX model that flytrap can load; export one with format=onnx");
            Error::fatal(Kind::Model, text).caused_by(why)
        };
        onnx::check(bytes).map_err(refused)?;
        let proto = importer()
            .proto_model_for_read(&mut std::io::Cursor::new(bytes))
            .map_err(|error| refused(error.root_cause().to_string()))?;
        if proto.graph.as_ref().is_none_or(|graph| graph.node.is_empty()) {
            return Err(Error::fatal(
                Kind::Model,
                format!("'{place}' holds no network; export it again with format=onnx"),
            ));
        }
        Ok(Parsed { proto: Arc::new(proto), place: place.to_owned() })
    }

    /// A value from the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.proto.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// Channels, height and width of the first input, as far as they are fixed.
    ///
    /// # Errors
    /// `Kind::Model` if the input is not one picture: more than one input, or a rank other than 4.
    pub fn input_sides(&self) -> Result<InputSides> {
        use tract_onnx::pb::tensor_shape_proto::dimension::Value;
        use tract_onnx::pb::type_proto;
        let wrong = |why: &str| {
            Error::fatal(
                Kind::Model,
                format!("'{}' does not take one picture [1, 3, height, width]: {why}", self.place),
            )
        };
        let graph = self.proto.graph.as_ref().ok_or_else(|| wrong("it holds no network"))?;
        // Old exports list the weights among the inputs.
        let is_weight = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        let mut inputs = graph.input.iter().filter(|input| !is_weight(&input.name));
        let (Some(input), None) = (inputs.next(), inputs.next()) else {
            return Err(wrong("it does not have exactly one input"));
        };
        let shape = input.r#type.as_ref().and_then(|kind| match kind.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => tensor.shape.as_ref(),
        });
        let dims = shape.map(|shape| shape.dim.as_slice()).unwrap_or_default();
        let side = |index: usize| match dims[index].value.as_ref() {
            Some(Value::DimValue(side)) => usize::try_from(*side).ok().filter(|side| *side > 0),
            Some(Value::DimParam(_)) | None => None,
        };
        if dims.len() != 4 {
            return Err(wrong(&format!("its input has {} dimensions", dims.len())));
        }
        Ok(InputSides { channels: side(1), height: side(2), width: side(3) })
    }

    /// Plans the network for one input size or more (`sizes`, the largest first); consumes the parsed form. `classes`: the number that the
    /// file names. Sizes other than the first that the network does not support are left out; if it has operations that our executor does
    /// not support, tract runs it, at the first size. The log says why.
    ///
    /// # Errors
    /// `Kind::Model` if tract cannot run it either, its output is not a detection head's, or int8 has no range for it; `Kind::Config`: see
    /// [`EngineParams::check`].
    pub fn plan(
        self,
        sizes: &[Size],
        classes: usize,
        params: EngineParams,
        ranges: Option<&Ranges>,
    ) -> Result<Planned> {
        params.check()?;
        match params.precision {
            Precision::Fp32 => self.plan_with::<f32>(sizes, classes, params, ranges),
            Precision::Fp16 | Precision::Int8 => self.plan_with::<Half>(sizes, classes, params, ranges),
        }
    }

    fn plan_with<E: Kernels>(
        self,
        sizes: &[Size],
        classes: usize,
        params: EngineParams,
        ranges: Option<&Ranges>,
    ) -> Result<Planned> {
        let place = self.place.clone();
        let Some((first, others)) = sizes.split_first() else {
            return Err(Error::fatal(Kind::Model, format!("'{place}': no input size")));
        };
        // The smallest before the largest, each without its weights: they exist only once.
        let mut smaller: Vec<(Size, PlanBuilder<E>)> = Vec::new();
        for size in others.iter().rev() {
            match self.smaller::<E>(*size, classes, params, ranges) {
                Ok(builder) => smaller.insert(0, (*size, builder)),
                Err(why) => tracing::info!("'{place}' is not run at {size}: {why}"),
            }
        }
        let model = self.typed(*first)?;
        let graph = import(&model).map_err(Unfit::Plan);
        let largest = match graph.and_then(|graph| builder_of::<E>(graph, classes, params, ranges)) {
            Ok(builder) => builder,
            Err(Unfit::Ranges) => {
                let text = format!(
                    "'{place}': the ranges have none of its convolutions; run flytrap calibrate again"
                );
                return Err(Error::fatal(Kind::Model, text));
            }
            Err(Unfit::Plan(why)) => {
                let engine = TractEngine::new(&place, model, *first, classes)?;
                let loses = if params.precision == Precision::Fp32 { "" } else { ", and in fp32" };
                tracing::info!("'{place}' runs on tract, several times slower{loses}: {why}");
                return Ok(engine.into_planned());
            }
        };
        // Its numbers have been copied.
        drop(model);
        let head = head_of(&place, largest.output_shape(), classes)?;
        let (mut sizes, mut builders) = (vec![*first], vec![largest]);
        for (size, builder) in smaller {
            if builder.shares_weights(&builders[0]) {
                sizes.push(size);
                builders.push(builder);
            } else {
                tracing::info!("'{place}' is not run at {size}: it has other weights there");
            }
        }
        Ok(PlannedEngine::<E>::planned(builders, sizes, head, params))
    }

    /// A plan for a size other than the first, without weights.
    fn smaller<E: Kernels>(
        &self,
        size: Size,
        classes: usize,
        params: EngineParams,
        ranges: Option<&Ranges>,
    ) -> std::result::Result<PlanBuilder<E>, String> {
        let model = self.read(size).and_then(|model| typed(model, &self.place, size));
        let graph = import(&model.map_err(|error| error.to_string())?)?;
        let mut builder = builder_of(graph, classes, params, ranges).map_err(|unfit| match unfit {
            Unfit::Plan(why) => why,
            Unfit::Ranges => "no ranges".to_owned(),
        })?;
        builder.drop_weights();
        Ok(builder)
    }

    /// Plans it for tract in any case.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn into_tract(self, size: Size, classes: usize) -> Result<TractEngine> {
        let place = self.place.clone();
        TractEngine::new(&place, self.typed(size)?, size, classes)
    }

    /// Reads and checks the network for one input size.
    fn typed(self, size: Size) -> Result<TypedModel> {
        let read = self.read(size)?;
        let Parsed { proto, place } = self;
        // Its numbers have been copied: free it now, unless there is another clone.
        drop(proto);
        typed(read, &place, size)
    }

    fn read(&self, size: Size) -> Result<InferenceModel> {
        importer()
            .model_for_proto_model(&self.proto)
            .map_err(|e| failed(&self.place, size, "cannot read the network", &e))
    }
}

/// The network at an input size.
fn typed(model: InferenceModel, place: &str, size: Size) -> Result<TypedModel> {
    model
        .with_input_fact(0, f32::fact([1, 3, size.height, size.width]).into())
        .map_err(|e| failed(place, size, "cannot set the input", &e))?
        .into_typed()
        .map_err(|e| failed(place, size, "cannot understand the network", &e))
}

/// Why our own executor does not run a network.
enum Unfit {
    /// It has an operation without a kernel.
    Plan(String),
    /// int8 has no range for any of its convolutions.
    Ranges,
}

impl From<String> for Unfit {
    fn from(why: String) -> Self {
        Unfit::Plan(why)
    }
}

fn builder_of<E: Kernels>(
    mut graph: Graph,
    classes: usize,
    params: EngineParams,
    ranges: Option<&Ranges>,
) -> std::result::Result<PlanBuilder<E>, Unfit> {
    graph.fuse();
    if params.precision == Precision::Int8 && graph.set_int8(ranges.unwrap_or(&Ranges::new())) == 0 {
        return Err(Unfit::Ranges);
    }
    Ok(PlannedEngine::<E>::builder(graph, classes, params)?)
}

fn failed(place: &str, size: Size, doing: &str, error: &TractError) -> Error {
    // It contains names from the file, which may have any characters and any length.
    let why = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let mut why = why.replace(|c: char| c.is_control(), " ");
    if let Some((end, _)) = why.char_indices().nth(CAUSE_CHARS_MAX) {
        why.truncate(end);
        why.push('…');
    }
    Error::fatal(Kind::Model, format!("'{place}': {doing} at {size}")).caused_by(why)
}

fn head_of(place: &str, shape: &[usize], classes: usize) -> Result<HeadShape> {
    HeadShape::from_output(shape, classes)
        .map_err(|error| Error::fatal(Kind::Model, format!("'{place}'")).caused_by(error))
}

/// The importer. Shapes written in the file are ignored and inferred again: exports with free input sides contain contradictions
/// ("Impossible to unify Sym(batch)").
fn importer() -> tract_onnx::Onnx {
    tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true)
}

/// A network in tract.
pub struct TractEngine {
    state: TypedSimpleState,
    /// Shared with tract only during a run, so that the same memory is filled again for the next frame.
    input: Arc<Tensor>,
    output: Option<TValue>,
    size: Size,
    head: HeadShape,
}

impl TractEngine {
    fn new(place: &str, model: TypedModel, size: Size, classes: usize) -> Result<Self> {
        let failed = |doing: &str, error: &TractError| failed(place, size, doing, error);
        let model = model.into_optimized().map_err(|e| failed("cannot optimise the network", &e))?;
        let dims = model
            .output_fact(0)
            .map(|fact| fact.shape.as_concrete().map(<[usize]>::to_vec).unwrap_or_default())
            .map_err(|e| failed("has no output", &e))?;
        let head = head_of(place, &dims, classes)?;
        let plan = model.into_runnable().map_err(|e| failed("cannot plan the network", &e))?;
        let state = plan.spawn().map_err(|e| failed("cannot start the network", &e))?;
        let input = Tensor::zero::<f32>(&[1, 3, size.height, size.width])
            .map_err(|e| failed("cannot take memory for the input", &e))?;
        Ok(TractEngine { state, input: Arc::new(input), output: None, size, head })
    }

    /// It has been started already; its memory is only known after the first run.
    fn into_planned(self) -> Planned {
        Planned { shape: self.shape(), costs: None, start: Box::new(|| Ok(Box::new(self))) }
    }
}

impl Engine for TractEngine {
    fn size(&self) -> Size {
        self.size
    }

    fn head(&self) -> HeadShape {
        self.head
    }

    fn input(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.input).is_none() {
            // tract kept a reference (it does not, for the models that we know): copy rather than fail.
            self.input = Arc::new((*self.input).clone());
        }
        let tensor = Arc::get_mut(&mut self.input).expect("made exclusive above");
        let view = tensor.to_plain_array_view_mut::<f32>().expect("made as f32 when it was loaded");
        view.into_slice().expect("a whole tensor lies in one piece")
    }

    fn run(&mut self, _: f32) -> Result<Output<'_>> {
        // Drop the old output first: tract's allocator then reuses its memory.
        self.output = None;
        let failed = |error: TractError| {
            Error::fatal(
                Kind::Model,
                "the network failed while it was running; the model file may be damaged",
            )
            .caused_by(error.to_string())
        };
        let mut outputs =
            self.state.run(tvec!(TValue::from_const(Arc::clone(&self.input)))).map_err(failed)?;
        let output = self.output.insert(outputs.swap_remove(0));
        let numbers = output.view().as_slice::<f32>().map_err(failed)?;
        let expected = (4 + self.head.classes) * self.head.anchors;
        if numbers.len() != expected {
            return Err(Error::fatal(
                Kind::Model,
                format!("the network gave {} numbers where its shape promised {expected}", numbers.len()),
            ));
        }
        Ok(Output { numbers, columns: self.head.anchors })
    }

    fn describe(&self) -> String {
        format!("tract, input {}, {} classes, {} anchors", self.size, self.head.classes, self.head.anchors)
    }
}
