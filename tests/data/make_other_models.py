#!/usr/bin/env python3
"""Makes tests/data/other-models: tiny ONNX files that are no detectors of the YOLOv8/YOLO11 family, each in its own way.

  pip install onnx numpy
  tests/data/make_other_models.py
"""
import os
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "other-models")
NAMES = "{0: 'person', 1: 'car'}"


def make(name, output, task="detect", names=NAMES, channels=3, inputs=1):
    """A network that gives its input's mean in every place of an output of that shape."""
    info = lambda title, shape: helper.make_tensor_value_info(title, TensorProto.FLOAT, shape)
    axes = list(range(4))
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], axes=axes, keepdims=0)]
    last = "mean"
    if inputs == 2:
        nodes += [helper.make_node("ReduceMean", ["more"], ["mean2"], axes=axes, keepdims=0), helper.make_node("Add", ["mean", "mean2"], ["both"])]
        last = "both"
    nodes.append(helper.make_node("Expand", [last, "shape"], ["output0"]))
    graph = helper.make_graph(
        nodes, name, [info(title, [1, channels, 32, 32]) for title in ["images", "more"][:inputs]], [info("output0", output)],
        [numpy_helper.from_array(np.array(output, np.int64), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="flytrap tests")
    model.ir_version = 8
    for key, value in {"task": task, "names": names, "stride": "32", "imgsz": "[32, 32]"}.items():
        if value:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
    checker.check_model(model)
    with open(os.path.join(FOLDER, name + ".onnx"), "wb") as out:
        out.write(model.SerializeToString())


def main():
    os.makedirs(FOLDER, exist_ok=True)
    make("segment", [1, 38, 21], task="segment")
    make("classifier", [1, 1000], task=None)
    make("end2end", [1, 300, 6])
    make("yolov5", [1, 63, 7])
    make("no-names", [1, 6, 21], names=None)
    make("two-inputs", [1, 6, 21], inputs=2)
    make("grey-input", [1, 6, 21], channels=1)


if __name__ == "__main__":
    main()
