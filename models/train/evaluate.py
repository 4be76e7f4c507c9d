"""Average precision of a detector on a folder of labelled pictures, by COCO's rules.

  python evaluate.py --model MODEL.onnx|CHECKPOINT.pt --data FOLDER [--size 320] [--pycocotools] [--json FILE]

Own implementation (the training needs it after every epoch and in parts); `--pycocotools` counts with the original
too. Ignored objects (too small, too hidden, crowds) are neither right nor wrong: what overlaps them is not counted.
"""
import argparse
import json

import numpy as np
import torch

from data import Files, Folder, letterbox
from model import CLASSES, Detector, Widths, anchors_of, decode

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
PER_CLASS_MAX = 100  # boxes a picture and class, as COCO counts


def iou_table(a, b, crowd=None):
    """IoU of all boxes of a with all of b; with a crowd, the share of a that is inside."""
    wh = (np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])).clip(0)
    inter = wh.prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - inter
    if crowd is not None:
        union = np.where(crowd[None], area_a[:, None], union)
    return inter / union.clip(1e-9)


def suppress(boxes, scores, iou_max):
    """Greedy suppression of one class. Gives indices, the strongest first."""
    order = np.argsort(-scores, kind="stable")
    table = iou_table(boxes[order], boxes[order]) > iou_max
    alive = np.ones(len(order), bool)
    for k in range(len(order)):
        if alive[k]:
            alive[k + 1:] &= ~table[k, k + 1:]
    return order[alive]


def pick(boxes, scores, score_min=0.001, iou_max=0.7, candidates=1000, keep=300):
    """From a picture's anchors (corners, class scores) to detections: boxes, scores, labels."""
    anchor, label = np.nonzero(scores > score_min)
    score = scores[anchor, label]
    if len(score) > candidates:
        best = np.argpartition(-score, candidates)[:candidates]
        anchor, label, score = anchor[best], label[best], score[best]
    kept = []
    for c in np.unique(label):
        of = np.flatnonzero(label == c)
        kept.append(of[suppress(boxes[anchor[of]], score[of], iou_max)][:PER_CLASS_MAX])
    kept = np.concatenate(kept) if kept else np.zeros(0, int)
    kept = kept[np.argsort(-score[kept], kind="stable")][:keep]
    return boxes[anchor[kept]], score[kept], label[kept]


class Score:
    """Collects pictures, then tells the average precision. `parts` can be joined across processes."""

    def __init__(self):
        self.parts = {c: [] for c in range(len(CLASSES))}  # of each picture: scores, matched [10, n], ignored [10, n]
        self.wanted = np.zeros(len(CLASSES), int)

    def add(self, boxes, scores, labels, truth):
        for c in range(len(CLASSES)):
            of_truth = truth.label == c
            # Real objects first: only what matches none of them may match an ignored one.
            order = np.argsort(truth.ignore[of_truth], kind="stable")
            gt, ignore = truth.box[of_truth][order], truth.ignore[of_truth][order]
            self.wanted[c] += (~ignore).sum()
            of = np.flatnonzero(labels == c)
            of = of[np.argsort(-scores[of], kind="stable")][:PER_CLASS_MAX]
            if not len(of):
                continue
            table = iou_table(boxes[of], gt, ignore)
            matched = np.zeros((len(IOUS), len(of)), bool)
            ignored = np.zeros((len(IOUS), len(of)), bool)
            for t, iou_min in enumerate(IOUS):
                free = np.ones(len(gt), bool)
                for d in range(len(of)):
                    real = np.where(free & ~ignore, table[d], -1)
                    best = real.argmax() if len(real) else -1
                    if best >= 0 and real[best] >= iou_min:
                        free[best], matched[t, d] = False, True
                    elif (table[d][ignore] >= iou_min).any():
                        ignored[t, d] = True
            self.parts[c].append((scores[of], matched, ignored))

    def join(self, other):
        self.wanted += other.wanted
        for c, parts in other.parts.items():
            self.parts[c] += parts

    def result(self):
        """AP [classes, 10]; NaN where nothing was wanted."""
        out = np.full((len(CLASSES), len(IOUS)), np.nan)
        for c, parts in self.parts.items():
            if not self.wanted[c]:
                continue
            out[c] = 0
            if not parts:
                continue
            scores = np.concatenate([p[0] for p in parts])
            order = np.argsort(-scores, kind="mergesort")
            matched, ignored = (np.concatenate([p[k] for p in parts], 1)[:, order] for k in (1, 2))
            for t in range(len(IOUS)):
                hit = matched[t][~ignored[t]]
                right = np.cumsum(hit)
                recall, precision = right / self.wanted[c], right / np.arange(1, len(hit) + 1)
                precision = np.maximum.accumulate(precision[::-1])[::-1]
                at = np.searchsorted(recall, RECALLS, side="left")
                out[c, t] = np.where(at < len(hit), precision[np.minimum(at, len(hit) - 1)], 0).mean() if len(hit) else 0
        return out

    def summary(self):
        ap = self.result()
        mean = lambda x: float(np.nanmean(x)) if not np.isnan(x).all() else 0.0
        return {"map50": mean(ap[:, 0]), "map50_95": mean(ap),
                "classes": {name: {"objects": int(n), "ap50": None if np.isnan(a[0]) else round(float(a[0]), 4),
                                   "ap50_95": None if np.isnan(a[0]) else round(float(a.mean()), 4)}
                            for name, n, a in zip(CLASSES, self.wanted, ap)}}


def torch_runner(model):
    """Canvases uint8 [n, H, W, 3] to corners [n, anchors, 4] and scores [n, anchors, classes] of a PyTorch model."""
    def run(canvases):
        x = torch.from_numpy(canvases).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            sides, scores = model(x)
            boxes = decode(sides, *anchors_of(*x.shape[2:]))
        return boxes.numpy(), scores.float().sigmoid().transpose(1, 2).numpy()
    return run


def onnx_runner(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(canvases):
        found = []
        for canvas in canvases:
            x = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32) / 255
            found.append(session.run(None, {"images": x})[0][0].T)
        y = np.stack(found)
        centre, half = y[..., :2], y[..., 2:4] / 2
        return np.concatenate((centre - half, centre + half), 2), y[..., 4:]
    return run


def detections(run, cache, indices, side_h, side_w, batch=8, **how):
    """Of each picture: index, boxes in its own (cached) pixels, scores, labels."""
    for start in range(0, len(indices), batch):
        part = indices[start:start + batch]
        boxed = [letterbox(cache.picture(i), side_h, side_w) for i in part]
        boxes, scores = run(np.stack([b[0] for b in boxed]))
        for i, (_, scale, left, top), box, score in zip(part, boxed, boxes, scores):
            h, w = cache.shapes[i]
            box = ((box - [left, top, left, top]) / scale).clip(0, [w, h, w, h])
            yield (i, *pick(box, score, **how))


def load_checkpoint(path):
    """The averaged weights of a checkpoint as a fused model in eval mode."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = Detector(Widths(**saved["widths"]))
    model.load_state_dict(saved["ema"], strict=True)
    return model.eval().fuse()


def by_pycocotools(folder, cache, found):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(folder.path / "instances.json"))
    ids = {c["name"]: c["id"] for c in truth.cats.values()}
    images = sorted(truth.imgs)
    rows = []
    for i, boxes, scores, labels in found:
        (h, w), (height, width) = cache.shapes[i], folder.sizes[i]
        scale = np.array([width / w, height / h] * 2)
        for (x1, y1, x2, y2), score, label in zip(boxes * scale, scores, labels):
            rows.append({"image_id": images[i], "category_id": ids[CLASSES[label]], "score": float(score),
                         "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]})
    e = COCOeval(truth, truth.loadRes(rows), "bbox")
    e.params.catIds = [ids[name] for name in CLASSES if name in ids]
    e.evaluate(), e.accumulate(), e.summarize()
    return {"map50_95": float(e.stats[0]), "map50": float(e.stats[1])}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--size", default="320", help="SIDE or HEIGHTxWIDTH")
    p.add_argument("--pycocotools", action="store_true")
    p.add_argument("--json", help="write the result into this file too")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    side_h, side_w = (int(v) for v in (a.size.split("x") * 2)[:2])
    folder = Folder(a.data)
    cache = Files(folder)
    run = onnx_runner(a.model) if a.model.endswith(".onnx") else torch_runner(load_checkpoint(a.model))
    score, found = Score(), []
    for one in detections(run, cache, list(range(len(cache))), side_h, side_w):
        found.append(one)
        score.add(*one[1:], cache.truths[one[0]])
    result = {"model": a.model, "data_sha256": folder.sha256, "pictures": len(cache), "size": a.size, **score.summary()}
    if a.pycocotools:
        result["pycocotools"] = by_pycocotools(folder, cache, found)
    print(f"mAP50 {result['map50']:.4f}  mAP50-95 {result['map50_95']:.4f}  ({len(cache)} pictures)")
    for name, one in result["classes"].items():
        ap = "-" if one["ap50"] is None else f"AP50 {one['ap50']:.3f}  AP50-95 {one['ap50_95']:.3f}"
        print(f"  {name:<11} {one['objects']:>6} objects  {ap}")
    if a.json:
        with open(a.json, "w") as out:
            json.dump(result, out, indent=1)


if __name__ == "__main__":
    main()
