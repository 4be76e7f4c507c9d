#!/usr/bin/env python3
"""Makes squares.onnx and squares.mjpeg, the model and the clip that tests and the README's first command use on a fresh clone.

  pip install onnx numpy pillow && python3 tests/data/make.py

squares.onnx is written by hand, not trained: it finds solid red ("car") and blue ("person") rectangles by the moments of
their pixels, and gives them in the output layout of YOLOv8/YOLO11, so the whole program runs on it. It knows nothing else.
squares.mjpeg: 160 frames of 240x144 at 10 a second. Truth: cars cross the middle 3 times to the right and 2 times to the
left, a person once to the right; a car that turns back before the middle does not cross. squares.truth.json says it per frame.
"""
import io, json, os
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

HERE = os.path.dirname(os.path.abspath(__file__))
H, W, STRIDE, WINDOW = 96, 160, 8, 33


def model():
    half = WINDOW // 2
    d = np.arange(-half, half + 1, dtype=np.float32)
    dx, dy, one = np.broadcast_to(d[None], (WINDOW, WINDOW)), np.broadcast_to(d[:, None], (WINDOW, WINDOW)), np.ones((WINDOW, WINDOW), np.float32)
    moments = [[one, one], [dx, dx], [dy, dy], [dx * dx] * 2, [dy * dy] * 2, [one, 0 * one], [0 * one, one]]
    colour = np.array([[8, -4, -4], [-4, -4, 8]], np.float32).reshape(2, 3, 1, 1)
    rows, cols = H // STRIDE, W // STRIDE
    gy, gx = np.meshgrid(np.arange(rows) * STRIDE, np.arange(cols) * STRIDE, indexing="ij")
    grid = np.stack([gx, gy])[None].astype(np.float32) + 0.5
    constants = {
        "colour": colour, "colour_bias": np.full(2, -2, np.float32), "moment": np.array(moments, np.float32), "grid": grid,
        "zero": np.float32(0), "unit": np.float32(1), "tiny": np.float32(1e-3), "twelve": np.array(12, np.float32),
        "least_fill": np.float32(0.6), "nearness": np.float32(0.05), "shape": np.array([1, 6, rows * cols], np.int64),
        "split": np.array([1, 2, 2, 2], np.int64), "axis": np.array([1], np.int64),
    }
    n = helper.make_node
    nodes = [
        n("Conv", ["images", "colour", "colour_bias"], ["linear"], kernel_shape=[1, 1]),
        n("Clip", ["linear", "zero", "unit"], ["mask"]),
        n("Conv", ["mask", "moment"], ["sums"], kernel_shape=[WINDOW, WINDOW], strides=[STRIDE, STRIDE], pads=[half, half, half - STRIDE + 1, half - STRIDE + 1]),
        n("Split", ["sums", "split"], ["mass", "first", "second", "by_class"], axis=1),
        n("Add", ["mass", "tiny"], ["mass_safe"]),
        n("Div", ["first", "mass_safe"], ["mean"]),
        n("Div", ["second", "mass_safe"], ["square"]),
        n("Mul", ["mean", "mean"], ["mean2"]),
        n("Sub", ["square", "mean2"], ["variance_raw"]),
        n("Relu", ["variance_raw"], ["variance"]),
        n("Mul", ["variance", "twelve"], ["variance12"]),
        n("Add", ["variance12", "unit"], ["side2"]),
        n("Sqrt", ["side2"], ["side"]),
        n("Add", ["grid", "mean"], ["centre"]),
        n("ReduceProd", ["side"], ["area"], axes=[1], keepdims=1),
        n("Div", ["mass", "area"], ["fill"]),
        n("Sub", ["fill", "least_fill"], ["fill_over"]),
        n("Mul", ["fill_over", "twelve"], ["evidence"]),
        n("ReduceSum", ["mean2", "axis"], ["distance2"], keepdims=1),
        n("Mul", ["distance2", "nearness"], ["penalty"]),
        n("Sub", ["evidence", "penalty"], ["logit"]),
        n("Sigmoid", ["logit"], ["objectness"]),
        n("Div", ["by_class", "mass_safe"], ["share"]),
        n("Mul", ["share", "objectness"], ["scores"]),
        n("Concat", ["centre", "side", "scores"], ["head"], axis=1),
        n("Reshape", ["head", "shape"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes, "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, H, W])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, rows * cols])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="flytrap tests")
    made.ir_version = 8
    for key, value in {"task": "detect", "names": "{0: 'car', 1: 'person'}", "imgsz": f"[{H}, {W}]", "stride": "8", "license": "MIT OR Apache-2.0"}.items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(made)
    onnx.save(made, os.path.join(HERE, "squares.onnx"))


def clip():
    width, height, frames = 240, 144, 160
    rng = np.random.default_rng(7)
    rows = np.linspace(90, 130, height)[:, None] + np.zeros((height, width))
    rows[40:126] = 105
    rows[82:84] = 170
    # (class, first frame, x at first frame, pixels a frame, y, width, height)
    users = [
        ("car", 10, -20, 4.0, 96, 30, 18), ("car", 45, -20, 5.0, 98, 28, 16), ("car", 95, -20, 4.5, 96, 30, 18),
        ("car", 20, 250, -4.0, 52, 30, 18), ("car", 80, 250, -5.0, 50, 28, 16),
        ("person", 30, -6, 2.2, 20, 9, 22),
    ]
    turn = [(10 + 4 * t if t < 20 else 90 - 4 * (t - 20)) for t in range(41)]  # comes to x = 90 and goes back
    truth, stream = [], b""
    for t in range(frames):
        picture = np.repeat((rows + rng.normal(0, 1.5, rows.shape))[:, :, None], 3, 2)
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        draw, boxes = ImageDraw.Draw(image), []
        def put(kind, x, y, w, h):
            if x < width and x + w > 0:
                draw.rectangle([x, y, x + w - 1, y + h - 1], fill={"car": (200, 30, 30), "person": (30, 40, 210)}[kind])
                boxes.append({"class": kind, "box": [max(0, x), y, min(width, x + w), y + h]})
        for kind, start, x, step, y, w, h in users:
            if t >= start:
                put(kind, round(x + step * (t - start)), y, w, h)
        if 118 <= t < 118 + len(turn):
            put("car", turn[t - 118] - 40, 52, 28, 16)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80, subsampling=2)
        stream += out.getvalue()
        truth.append({"frame": t, "objects": boxes})
    open(os.path.join(HERE, "squares.mjpeg"), "wb").write(stream)
    crossings = [["car", "left-to-right", 3], ["car", "right-to-left", 2], ["person", "left-to-right", 1]]
    json.dump({"crossings": crossings, "frames": truth}, open(os.path.join(HERE, "squares.truth.json"), "w"), separators=(",", ":"))


model()
clip()
