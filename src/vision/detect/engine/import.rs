//! From tract's typed model to a [`Graph`]: only the operations of YOLO detectors. Besides `tract.rs` the only file that uses `tract_*`.
//! Takes the model as tract reads and checks it, before tract's own rewriting, which splits concatenations and slices through convolutions:
//! good for an executor without views, bad for ours.

use std::collections::HashMap;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::DimLike;
use tract_onnx::tract_core::ops::array::{Slice, StridedSlice, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::cnn::conv::{Conv as TractConv, KernelFormat};
use tract_onnx::tract_core::ops::cnn::{MaxPool, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::nn::{DataFormat, Softmax};
use tract_onnx::tract_core::ops::source::TypedSource;

use super::graph::{Binary, Conv, Graph, Node, Op};

/// The graph of `model`, or the operation that has no kernel.
///
/// # Errors
/// One line: the node and its operation.
pub fn import(model: &TypedModel) -> Result<Graph, String> {
    let mut graph = Graph { nodes: Vec::new(), output: 0 };
    let mut place = HashMap::new();
    let order = model.eval_order().map_err(|error| error.to_string())?;
    for id in order {
        let node = model.node(id);
        let one = Import { model, node, place: &place };
        if let Some((op, inputs, shape)) = one.node().map_err(|what| format!("{}: {what}", node.name))? {
            place.insert(id, graph.nodes.len());
            graph.nodes.push(Node { name: node.name.clone(), op, inputs, shape });
        }
    }
    let outputs = model.output_outlets().map_err(|error| error.to_string())?;
    let output = outputs.first().and_then(|output| place.get(&output.node));
    graph.output = *output.ok_or("its output is a constant")?;
    Ok(graph)
}

struct Import<'a> {
    model: &'a TypedModel,
    node: &'a TypedNode,
    place: &'a HashMap<usize, usize>,
}

type Imported = (Op, Vec<usize>, Vec<usize>);

impl Import<'_> {
    /// `None`: its result is only needed during the import (sizes, weights).
    fn node(&self) -> Result<Option<Imported>, String> {
        let [output] = &self.node.outputs[..] else { return Err("more than one result".into()) };
        if self.node.op_is::<Const>() || self.node.op_is::<Cast>() {
            if output.fact.datum_type != f32::datum_type() {
                return Ok(None);
            }
            return Ok(self.constant_of(self.node).map(|tensor| {
                let shape = tensor.shape().to_vec();
                (Op::Const(numbers(&tensor)), Vec::new(), shape)
            }));
        }
        if output.fact.datum_type != f32::datum_type() {
            return Err(format!("numbers of type {:?}", output.fact.datum_type));
        }
        let shape = output.fact.shape.as_concrete().ok_or("an unknown shape")?.to_vec();
        let (op, count) = self.op(&shape)?;
        let inputs = self.node.inputs.iter().take(count).map(|input| {
            let known = self.place.get(&input.node).filter(|_| input.slot == 0);
            known.copied().ok_or_else(|| "an input of an unsupported kind".to_owned())
        });
        Ok(Some((op, inputs.collect::<Result<_, _>>()?, shape)))
    }

    /// The operation, and how many of its inputs are data.
    fn op(&self, shape: &[usize]) -> Result<(Op, usize), String> {
        let op = &self.node.op;
        if op.is::<TypedSource>() {
            return Ok((Op::Input, 0));
        }
        if let Some(conv) = op.downcast_ref::<TractConv>() {
            return Ok((Op::Conv(self.conv(conv)?), 1));
        }
        if let Some(op) = op.downcast_ref::<ElementWiseOp>() {
            return match op.0.name().as_str() {
                "Sigmoid" => Ok((Op::Sigmoid, 1)),
                "Silu" => Ok((Op::Silu, 1)),
                other => Err(format!("{other} has no kernel")),
            };
        }
        if let Some(op) = op.downcast_ref::<TypedBinOp>() {
            return Ok((Op::Binary(binary(op.0.name())?), 2));
        }
        if let Some(concat) = op.downcast_ref::<TypedConcat>() {
            return Ok((Op::Concat { axis: concat.axis }, self.node.inputs.len()));
        }
        if let Some(slice) = op.downcast_ref::<Slice>() {
            let start = slice.start.to_usize().map_err(|error| error.to_string())?;
            return Ok((Op::Slice { axis: slice.axis, start }, 1));
        }
        if let Some(slice) = op.downcast_ref::<StridedSlice>() {
            return Ok((self.strided_slice(slice, shape)?, 1));
        }
        if let Some(axes) = op.downcast_ref::<AxisOp>() {
            return Ok((
                match axes {
                    AxisOp::Move(from, to) => {
                        let mut axes: Vec<usize> = (0..shape.len()).collect();
                        let axis = axes.remove(*from);
                        axes.insert(*to, axis);
                        Op::Transpose(axes)
                    }
                    AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..) => Op::Reshape,
                },
                1,
            ));
        }
        if let Some(sum) = op.downcast_ref::<EinSum>() {
            return match sum.axes.to_string().as_str() {
                "abmk,abkn->abmn" | "amk,akn->amn" if sum.q_params.is_none() => Ok((Op::MatMul, 2)),
                other => Err(format!("sums {other} have no kernel")),
            };
        }
        if let Some(softmax) = op.downcast_ref::<Softmax>() {
            return match softmax.axes[..] {
                [axis] if softmax.quant_output_dt.is_none() => Ok((Op::Softmax { axis }, 1)),
                _ => Err("a softmax over several axes".into()),
            };
        }
        if let Some(pool) = op.downcast_ref::<MaxPool>() {
            return Ok((max_pool(pool)?, 1));
        }
        if op.name() == "Resize" {
            return Ok((self.upsample(shape)?, 1));
        }
        Err(format!("{} has no kernel", op.name()))
    }

    fn conv(&self, conv: &TractConv) -> Result<Conv, String> {
        let [rows, columns] = conv.pool_spec.kernel_shape[..] else {
            return Err("a convolution that is not two-dimensional".into());
        };
        let (stride, pad) = steps(&conv.pool_spec)?;
        let weights = self.constant(1).ok_or("weights that are not constant")?;
        let bias = self.constant(2).ok_or("a bias that is not constant")?;
        let channels = conv.pool_spec.output_channels;
        let bias = match numbers(&bias) {
            one if one.len() == 1 => vec![one[0]; channels],
            all => all,
        };
        let weights = numbers(&weights);
        let expected = channels * conv.pool_spec.input_channels / conv.group.max(1) * rows * columns;
        let plain = conv.kernel_fmt == KernelFormat::OIHW && conv.q_params.is_none();
        if !plain || weights.len() != expected || bias.len() != channels {
            return Err("a convolution of an unsupported form".into());
        }
        let (groups, kernel) = (conv.group, [rows, columns]);
        Ok(Conv { weights, bias, kernel, stride, pad, groups, silu: false, int8: None })
    }

    fn strided_slice(&self, slice: &StridedSlice, shape: &[usize]) -> Result<Op, String> {
        let whole = |index: usize| -> Option<Vec<i64>> {
            let tensor = self.constant(index)?;
            let tensor = tensor.cast_to::<i64>().ok()?;
            Some(tensor.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec())
        };
        let begin = whole(1).ok_or("a slice with an unknown begin")?;
        let axes = slice
            .optional_axes_input
            .map_or_else(|| Some(vec![0]), whole)
            .ok_or("a slice of unknown axes")?;
        let steps = slice
            .optional_steps_input
            .map_or_else(|| Some(vec![1]), whole)
            .ok_or("a slice with unknown steps")?;
        let input = self.model.outlet_fact(self.node.inputs[0]).map_err(|error| error.to_string())?;
        match (&axes[..], &begin[..], &steps[..], slice.begin_mask | slice.end_mask | slice.shrink_axis_mask)
        {
            ([axis], [begin], [1], 0) => {
                let axis =
                    usize::try_from(*axis).map_err(|_| "a slice of an axis that is counted from the end")?;
                let begin = usize::try_from(*begin).map_err(|_| "a slice that is counted from the end")?;
                let side = input.shape.get(axis).and_then(|side| side.to_usize().ok()).unwrap_or(0);
                if begin + shape.get(axis).copied().unwrap_or(usize::MAX / 2) > side {
                    return Err("a slice that is larger than its input".into());
                }
                Ok(Op::Slice { axis, start: begin })
            }
            _ => Err("a slice along several axes or in steps".into()),
        }
    }

    /// The importer's resize type is private; its debug output shows the mode.
    fn upsample(&self, shape: &[usize]) -> Result<Op, String> {
        let said = format!("{:?}", self.node.op);
        let nearest =
            ["interpolator: Nearest", "nearest: Floor", "Asymmetric"].iter().all(|part| said.contains(part));
        let input = self.model.outlet_fact(self.node.inputs[0]).map_err(|error| error.to_string())?;
        let twice = matches!((input.shape.as_concrete(), shape), (Some([n, c, h, w]), [n2, c2, h2, w2])
            if (n, c, 2 * h, 2 * w) == (n2, c2, *h2, *w2));
        if nearest && twice {
            Ok(Op::Upsample)
        } else {
            Err("a resize other than nearest-neighbour by 2".into())
        }
    }

    fn constant(&self, index: usize) -> Option<Arc<Tensor>> {
        self.constant_of(self.model.node(self.node.inputs.get(index)?.node))
    }

    /// The result of a node that does not depend on the picture: a constant, maybe cast.
    fn constant_of(&self, node: &TypedNode) -> Option<Arc<Tensor>> {
        if let Some(tensor) = &node.outputs.first()?.fact.konst {
            return Some(Arc::clone(tensor));
        }
        if let Some(cast) = node.op_as::<Cast>() {
            let tensor = self.constant_of(self.model.node(node.inputs.first()?.node))?;
            return Some(Arc::new(tensor.cast_to_dt(cast.to).ok()?.into_owned()));
        }
        None
    }
}

fn binary(name: &str) -> Result<Binary, String> {
    Ok(match name {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        other => return Err(format!("{other} has no kernel")),
    })
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor
        .cast_to::<f32>()
        .ok()
        .and_then(|tensor| Some(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec()))
        .unwrap_or_default()
}

type Steps = ([usize; 2], [usize; 2]);

/// Strides and zero padding of a sliding window.
fn steps(spec: &PoolSpec) -> Result<Steps, String> {
    let pair = |sides: &[usize]| <[usize; 2]>::try_from(sides).map_err(|_| "not flat".to_owned());
    let stride = spec.strides.as_ref().map_or(Ok([1, 1]), |strides| pair(strides))?;
    let dilation = spec.dilations.as_ref().map_or(Ok([1, 1]), |dilations| pair(dilations))?;
    let pad = match &spec.padding {
        PaddingSpec::Valid => [0, 0],
        PaddingSpec::Explicit(before, after) | PaddingSpec::ExplicitOnnxPool(before, after, false)
            if before == after =>
        {
            pair(before)?
        }
        other => return Err(format!("padding of kind {other:?}")),
    };
    if dilation != [1, 1] || !matches!(spec.data_format, DataFormat::NCHW) {
        return Err("a dilated convolution, or a layout other than NCHW".into());
    }
    Ok((stride, pad))
}

fn max_pool(pool: &MaxPool) -> Result<Op, String> {
    let (stride, pad) = steps(&pool.pool_spec)?;
    match (<[usize; 2]>::try_from(&pool.pool_spec.kernel_shape[..]), stride, pad) {
        (Ok([rows, columns]), [1, 1], [above, left])
            if rows == columns
                && above == left
                && rows == 2 * above + 1
                && pool.with_index_outputs.is_none() =>
        {
            Ok(Op::MaxPool { reach: above })
        }
        _ => Err("pooling other than max pooling with a square window at stride 1".into()),
    }
}
