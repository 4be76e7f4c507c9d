"""Writes the averaged weights of a checkpoint as an ONNX file of the form that Ultralytics gives YOLO11.

  python export.py --checkpoint RUN/final.pt --out MODEL.onnx [--size 320 | 384x640] [--dynamic]

Input `images` [1, 3, H, W], output `output0` [1, 4 + classes, anchors]: centre x, y, width, height in input pixels, then
scores after the sigmoid. Opset 17, batch norm folded, anchors as constants; `--dynamic` leaves batch and sides free
(SIZE is then only what the metadata recommends). Compares the file with PyTorch before it puts it in place.
"""
import argparse
import datetime
import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from evaluate import load_checkpoint
from model import BINS, CLASSES, STRIDES, anchors_of

AGREE = 1e-3  # largest difference to PyTorch: pixels of a box (relative above 1), scores


class Head(nn.Module):
    """The detector's head with its decoding, in the operations of Ultralytics' export."""

    def __init__(self, detect, size):
        super().__init__()
        self.cv2, self.cv3, self.dfl = detect.cv2, detect.cv3, detect.dfl
        self.classes = detect.classes
        self.fixed = size is not None
        if self.fixed:
            centres, strides = anchors_of(*size)
            self.anchors, self.strides = centres.T[None].contiguous(), strides.T.contiguous()

    def places(self, levels):
        """Anchors by the levels' shapes, for free sides."""
        anchors, strides = [], []
        for stride, level in zip(STRIDES, levels):
            h, w = level.shape[2:]
            y, x = torch.arange(h).float() + 0.5, torch.arange(w).float() + 0.5
            grid = torch.stack((x.view(1, -1).expand(h, w), y.view(-1, 1).expand(h, w)))
            anchors.append(grid.reshape(1, 2, -1))
            strides.append(torch.full_like(anchors[-1][0, :1], float(stride)))
        return torch.cat(anchors, 2), torch.cat(strides, 1)

    def forward(self, levels):
        batch = levels[0].shape[0]
        sides = torch.cat([m(x).view(batch, 4 * BINS, -1) for m, x in zip(self.cv2, levels)], -1)
        scores = torch.cat([m(x).view(batch, self.classes, -1) for m, x in zip(self.cv3, levels)], -1)
        anchors, strides = (self.anchors, self.strides) if self.fixed else self.places(levels)
        distance = self.dfl(sides, anchors.shape[-1])
        left_top, right_bottom = distance[:, :2], distance[:, 2:4]
        start, end = anchors - left_top, anchors + right_bottom
        boxes = torch.cat(((start + end) / 2, end - start), 1) * strides
        return torch.cat((boxes, scores.sigmoid()), 1)


class Exported(nn.Module):
    def __init__(self, detector, size):
        super().__init__()
        self.model = detector.model
        self.features = detector.features
        self.model[23] = Head(self.model[23], size)

    def forward(self, images):
        return self.model[23](self.features(images))


def constants_to_initializers(graph):
    """The exporter writes constants as nodes; as initializers, each once, they take less and read better."""
    known, rename = {}, {}
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        tensor = node.attribute[0].t
        key = (tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
        if key not in known:
            known[key] = node.output[0]
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        rename[node.output[0]] = known[key]
        graph.node.remove(node)
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = rename.get(name, name)


def metadata(size, dynamic, description, author, licence):
    return {
        "description": description, "author": author, "license": licence,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "stride": str(max(STRIDES)), "task": "detect", "head": "Detect", "batch": "1", "imgsz": str(list(size)),
        "names": str(dict(enumerate(CLASSES))), "channels": "3", "end2end": "False",
        "args": str({"batch": 1, "dynamic": dynamic, "opset": 17}),
    }


def export(detector, out, size, dynamic=False, description="", author="flytrap", licence="MIT OR Apache-2.0"):
    """`detector` is fused and in eval mode. Gives the sha256 of the file and the largest difference to PyTorch."""
    model = Exported(detector, None if dynamic else size).eval()
    example = torch.rand(1, 3, *size)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}} if dynamic else None
    part = Path(f"{out}.part")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on sizes that are constant here
        # The tracing exporter, not the newer one: its graph is the one that YOLO files are known by.
        torch.onnx.export(model, example, str(part), opset_version=17, input_names=["images"], output_names=["output0"],
                          dynamic_axes=axes, do_constant_folding=True, dynamo=False)
    proto = onnx.load(str(part))
    constants_to_initializers(proto.graph)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4 + len(CLASSES)  # the tracer loses it (dynamic)
    del proto.metadata_props[:]
    for key, value in metadata(size, dynamic, description, author, licence).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(part))
    worst = max(difference(model, part, side) for side in ([size, (size[1], size[0] + 64)] if dynamic else [size]))
    if worst > AGREE:
        raise SystemExit(f"{part} differs from PyTorch by {worst}")
    os.replace(part, out)
    return hashlib.sha256(Path(out).read_bytes()).hexdigest(), worst


def difference(model, file, size):
    """Largest difference on three pictures of noise of different brightness."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst, rng = 0.0, np.random.default_rng(0)
    for top in (0.1, 0.6, 1.0):
        x = rng.uniform(0, top, (1, 3, *size)).astype(np.float32)
        with torch.no_grad():
            ours = model(torch.from_numpy(x)).numpy()
        theirs = session.run(None, {"images": x})[0]
        worst = max(worst, float((np.abs(ours - theirs) / np.maximum(np.abs(ours), 1)).max()))
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--size", default="320", help="SIDE or HEIGHTxWIDTH, multiples of 32")
    p.add_argument("--dynamic", action="store_true")
    p.add_argument("--description", default="Flytrap road users, trained on rendered pictures")
    a = p.parse_args()
    size = tuple(int(v) for v in (a.size.split("x") * 2)[:2])
    detector = load_checkpoint(a.checkpoint)
    sha256, worst = export(detector, a.out, size, a.dynamic, a.description)
    print(f"{a.out}: {Path(a.out).stat().st_size} bytes, sha256 {sha256}, differs from PyTorch by {worst:.1e} at most")


if __name__ == "__main__":
    main()
