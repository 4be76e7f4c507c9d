"""Labelled pictures: reading, the decoded cache, and training pictures made from them.

A training picture is a grid of 1 to 6 cells, each a window of some frame at some scale, so that no area is spent on
padding and one batch shows many scenes. Everything random comes from a generator keyed by (seed, number of the picture
in the run): a picture does not depend on who makes it, or whether the run was interrupted.
"""
import hashlib
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from loss import Objects
from model import CLASSES, PAD

cv2.setNumThreads(0)  # one process a core; OpenCV's own threads would only be in the way

SIDE_MAX = 640      # px: larger pictures are shrunk when they are cached
SHORT_MIN = 3.0     # px: objects with a smaller short or
LONG_MIN = 6.0      # long side are neither right nor wrong
VISIBLE_MIN = 0.3   # share of a box inside its window; below that it is neither right nor wrong


@dataclass
class Truth:
    """What is in one picture. Boxes are corners in its pixels."""

    box: np.ndarray     # float32 [n, 4]
    label: np.ndarray   # int64 [n]
    ignore: np.ndarray  # bool [n]


class Folder:
    """`images/` and `instances.json` (COCO's format; classes by name, others are left out)."""

    def __init__(self, path):
        self.path = Path(path)
        text = (self.path / "instances.json").read_bytes()
        found = json.loads(text)
        label_of = {c["id"]: CLASSES.index(c["name"]) for c in found["categories"] if c["name"] in CLASSES}
        self.files, self.sizes, by_id = [], [], {}
        for entry in sorted(found["images"], key=lambda entry: entry["id"]):
            by_id[entry["id"]] = len(self.files)
            file = self.path / "images" / Path(entry["file_name"]).name
            self.files.append(file)
            self.sizes.append((entry["height"], entry["width"]))
        rows = [[] for _ in self.files]
        for a in found["annotations"]:
            if a["category_id"] in label_of and a["bbox"][2] > 0 and a["bbox"][3] > 0:
                x, y, w, h = a["bbox"]
                ignore = bool(a.get("iscrowd") or a.get("ignore"))
                rows[by_id[a["image_id"]]].append((x, y, x + w, y + h, label_of[a["category_id"]], ignore))
        self.truths = []
        for row in rows:
            table = np.array(row, np.float32).reshape(-1, 6)
            self.truths.append(Truth(table[:, :4], table[:, 4].astype(np.int64), table[:, 5] > 0))
        digest = hashlib.sha256(text)
        for file in self.files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        self.sha256 = digest.hexdigest()  # of the labels and the list of pictures with their sizes

    def __len__(self):
        return len(self.files)


def read_picture(file):
    """RGB, at most SIDE_MAX long."""
    picture = cv2.imdecode(np.frombuffer(Path(file).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{file} is not a picture")
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    h, w = cached_shape(*picture.shape[:2])
    if (h, w) != picture.shape[:2]:
        picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    return picture


def cached_shape(height, width):
    longest = max(height, width)
    if longest <= SIDE_MAX:
        return height, width
    return tuple(max(round(side * SIDE_MAX / longest), 1) for side in (height, width))


class Cache:
    """All pictures of a folder, decoded, in one memory-mapped file beside it: 0.7 MB for each of 640x360."""

    def __init__(self, folder, processes=2):
        self.folder = folder
        place = folder.path / f"cache-{folder.sha256[:16]}"
        index_file, pixel_file = place.with_suffix(".json"), place.with_suffix(".u8")
        if not index_file.exists():
            self._make(index_file, pixel_file, processes)
        self.shapes = json.loads(index_file.read_text())
        ends = np.cumsum([h * w * 3 for h, w in self.shapes])
        self.starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
        self.pixels = np.memmap(pixel_file, np.uint8, "r", shape=(int(ends[-1]),))
        self.truths = scaled_truths(folder, self.shapes)

    def _make(self, index_file, pixel_file, processes):
        shapes = []
        part = pixel_file.with_suffix(".part")
        with open(part, "wb") as out, ProcessPoolExecutor(processes) as pool:
            for picture in pool.map(read_picture, self.folder.files, chunksize=32):
                shapes.append(picture.shape[:2])
                out.write(picture.tobytes())
        os.replace(part, pixel_file)
        part.write_text(json.dumps(shapes))
        os.replace(part, index_file)  # last: it says that the pixels are complete

    def __len__(self):
        return len(self.shapes)

    def picture(self, index):
        h, w = self.shapes[index]
        start = self.starts[index]
        return self.pixels[start:start + h * w * 3].reshape(h, w, 3)


class Files:
    """The same without a cache, for looking at each picture once: leaves no file behind."""

    def __init__(self, folder):
        self.folder = folder
        self.shapes = [cached_shape(*size) for size in folder.sizes]
        self.truths = scaled_truths(folder, self.shapes)

    def __len__(self):
        return len(self.shapes)

    def picture(self, index):
        return read_picture(self.folder.files[index])


def scaled_truths(folder, shapes):
    """Labels in the pixels of pictures of these shapes."""
    truths = []
    for truth, (height, width), (h, w) in zip(folder.truths, folder.sizes, shapes):
        scale = np.array([w / width, h / height] * 2, np.float32)
        truths.append(Truth(truth.box * scale, truth.label, truth.ignore))
    return truths


def letterbox(picture, side_h, side_w):
    """As Ultralytics and flytrap do it: scaled to fit, centred, grey around. Gives the canvas, scale, left, top."""
    h, w = picture.shape[:2]
    scale = min(side_h / h, side_w / w)
    new_w, new_h = round(w * scale), round(h * scale)
    if (new_w, new_h) != (w, h):
        picture = cv2.resize(picture, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    top, left = round((side_h - new_h) / 2 - 0.1), round((side_w - new_w) / 2 - 0.1)
    canvas = np.full((side_h, side_w, 3), PAD, np.uint8)
    canvas[top:top + new_h, left:left + new_w] = picture
    return canvas, scale, left, top


# Grids (columns, rows) of a training picture and how often each is drawn. A frame is about twice as wide as high, so
# two of them, one above the other, fill a square at the scale at which one alone is letterboxed.
STRONG_GRIDS = (((1, 1), 0.20), ((1, 2), 0.42), ((2, 2), 0.15), ((2, 3), 0.18), ("letterbox", 0.05))
WEAK_GRIDS = (((1, 1), 0.10), ((1, 2), 0.55), ((2, 3), 0.10), ("letterbox", 0.25))


class Augment:
    """Makes training picture number `number` of a run, `size` a side."""

    def __init__(self, cache, seed):
        from augment import Looks  # here: it needs this file's constants

        self.cache, self.seed = cache, seed
        self.looks = Looks(seed)
        self.orders = {}

    def index_of(self, number):
        """Each pass shows every frame once as the first cell of a picture, in an order of its own."""
        epoch, place = divmod(number, len(self.cache))
        if epoch not in self.orders:
            self.orders = {epoch: np.random.default_rng((self.seed, 1, epoch)).permutation(len(self.cache))}
        return int(self.orders[epoch][place])

    def __call__(self, number, size, strong):
        rng = np.random.default_rng((self.seed, 2, number))
        grids = STRONG_GRIDS if strong else WEAK_GRIDS
        grid = grids[rng.choice(len(grids), p=[share for _, share in grids])][0]
        canvas = np.empty((size, size, 3), np.uint8)
        found, first = [], self.index_of(number)
        if grid == "letterbox":
            found.append(self._cell(rng, first, canvas, (0, 0, size, size), strong, fit=True))
        else:
            xs, ys = (_cuts(rng, size, parts) for parts in grid)
            cells = [(x, y, right, below) for y, below in zip(ys, ys[1:]) for x, right in zip(xs, xs[1:])]
            indices = [first] + rng.integers(len(self.cache), size=len(cells) - 1).tolist()
            for k, cell in zip(rng.permutation(len(cells)), indices):
                found.append(self._cell(rng, cell, canvas, cells[k], strong))
        truth = Truth(*(np.concatenate([getattr(t, name) for t in found]) for name in ("box", "label", "ignore")))
        canvas, truth = self.looks.finish(rng, canvas, truth, strong)
        side = truth.box[:, 2:] - truth.box[:, :2]
        truth.ignore |= (side.min(1, initial=1e9) < SHORT_MIN) | (side.max(1, initial=0) < LONG_MIN)
        return canvas, truth

    def _cell(self, rng, index, canvas, cell, strong, fit=False):
        """Draws a window of a frame into a cell of the canvas. Gives what is visible there."""
        picture, truth = self.cache.picture(index), self.cache.truths[index]
        h, w = picture.shape[:2]
        left, top, right, below = cell
        cell_w, cell_h = right - left, below - top
        jitter = math.exp(rng.uniform(-0.12, 0.12) if strong else rng.uniform(-0.03, 0.03))
        aspect = np.array([math.sqrt(jitter), 1 / math.sqrt(jitter)])
        need = np.array([cell_w / w, cell_h / h]) / aspect
        if fit:
            scale = need.min() * (rng.uniform(0.75, 1.0) if strong else 1.0)
        else:
            scale = need.max() * math.exp(rng.uniform(0, 0.47 if strong else 0.2))  # 1..1.6, 1..1.2
            if strong and rng.random() < 0.15:
                scale = math.exp(rng.uniform(math.log(need.min()), math.log(need.max())))
        sx, sy = scale * aspect
        if rng.random() < 0.5:
            sx = -sx
        turn = rng.normal(0, 2.5) if strong and rng.random() < 0.3 else 0.0
        slant = rng.normal(0, 0.04) if turn else 0.0
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]]) @ np.diag([sx, sy])
        # Where the frame's middle comes to lie: anywhere that leaves no gap, or (smaller than the cell) inside it.
        slack = (np.array([w * abs(sx), h * sy]) - (cell_w, cell_h)) / 2
        middle = np.array([cell_w, cell_h]) / 2 + rng.uniform(-1, 1, 2) * np.abs(slack) * (strong or not fit)
        shift = middle - linear @ np.array([w / 2, h / 2])
        into = canvas[top:below, left:right]
        into[:] = _draw(rng, picture, linear, shift, (cell_w, cell_h), bool(turn), strong,
                        lambda part: self.looks.cell(rng, part, strong))

        corners = truth.box[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
        corners = corners @ linear.T + shift
        whole = np.concatenate((corners.min(1), corners.max(1)), 1)
        clipped = whole.clip(0, [cell_w, cell_h] * 2)
        area = (clipped[:, 2:] - clipped[:, :2]).prod(1)
        there = area > 0
        hidden = area < VISIBLE_MIN * (whole[:, 2:] - whole[:, :2]).prod(1)
        box = (clipped + [left, top, left, top]).astype(np.float32)
        return Truth(box[there], truth.label[there], (truth.ignore | hidden)[there])


def _cuts(rng, size, parts):
    """Edges of `parts` cells along a side, none smaller than 60 % of an even share."""
    share = 1 + rng.uniform(-0.25, 0.25, parts)
    return [0] + [round(x) for x in (np.cumsum(share) / share.sum() * size)[:-1]] + [size]


def _draw(rng, picture, linear, shift, cell, turned, strong, look):
    """The cell's pixels: x_cell = linear @ x_frame + shift. Padding where the frame does not reach; `look` changes the
    frame's part only, for in use the padding is always the same."""
    cell_w, cell_h = cell
    fill = (PAD,) * 3
    if strong and rng.random() < 0.3:
        fill = tuple(int(c) for c in rng.integers(0, 256, 3))
    if turned:
        # Pixel centres lie at half coordinates; warpAffine counts from centres.
        offset = shift + linear @ [0.5, 0.5] - 0.5
        matrix = np.column_stack((linear, offset))
        return look(cv2.warpAffine(picture, matrix, (cell_w, cell_h), flags=cv2.INTER_LINEAR,
                                   borderMode=cv2.BORDER_CONSTANT, borderValue=fill))
    sx, sy = abs(linear[0, 0]), linear[1, 1]
    h, w = picture.shape[:2]
    # The frame's rectangle in the cell, and the part of the frame that is seen. Rounded to whole pixels of either;
    # the labels keep the exact place, half a pixel off at most.
    x0 = shift[0] if linear[0, 0] > 0 else shift[0] - w * sx
    x1, y0, y1 = x0 + w * sx, shift[1], shift[1] + h * sy
    to = [round(max(x0, 0)), round(max(y0, 0)), round(min(x1, cell_w)), round(min(y1, cell_h))]
    source = [round((to[0] - x0) / sx), round((to[1] - y0) / sy), round((to[2] - x0) / sx), round((to[3] - y0) / sy)]
    if linear[0, 0] < 0:
        source[0], source[2] = w - source[2], w - source[0]
    source = [min(max(source[0], 0), w - 1), min(max(source[1], 0), h - 1),
              max(min(source[2], w), 1), max(min(source[3], h), 1)]
    part = picture[source[1]:source[3], source[0]:source[2]]
    # Both what a camera's scaler does (area) and what flytrap does (linear, with its aliasing).
    how = cv2.INTER_AREA if rng.random() < 0.5 and sx < 1 else cv2.INTER_LINEAR
    part = cv2.resize(part, (max(to[2] - to[0], 1), max(to[3] - to[1], 1)), interpolation=how)
    if linear[0, 0] < 0:
        part = cv2.flip(part, 1)
    part = look(part)
    if part.shape[:2] == (cell_h, cell_w):
        return part
    out = np.full((cell_h, cell_w, 3), fill, np.uint8)
    out[to[1]:to[1] + part.shape[0], to[0]:to[0] + part.shape[1]] = part[:cell_h - to[1], :cell_w - to[0]]
    return out


def batch_of(augment, numbers, size, strong):
    """Pictures as uint8 [b, 3, size, size] (channels last in memory) and their objects."""
    pictures = np.empty((len(numbers), size, size, 3), np.uint8)
    truths = []
    for k, number in enumerate(numbers):
        pictures[k], truth = augment(number, size, strong)
        truths.append(truth)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), objects_of(truths)


def objects_of(truths):
    picture = np.concatenate([np.full(len(t.label), k, np.int64) for k, t in enumerate(truths)])
    return Objects(torch.from_numpy(picture), *(torch.from_numpy(np.concatenate([getattr(t, name) for t in truths]))
                                                for name in ("label", "box", "ignore")))
