"""Checks of the training code: python test_train.py [name ...]. About a minute."""
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch

import evaluate
import export
import loss as L
from data import Augment, Cache, Folder, Truth, batch_of, objects_of
from model import BINS, CLASSES, DEFAULT, PRESETS, Detector, anchors_of, decode, parameters_of
from train import Flat, Plan, learning_rate


def test_iou_known_values():
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert abs(float(L.iou_of(a, b)) - 1 / 7) < 1e-6
    # Same aspect: IoU minus (distance of centres)^2 / (diagonal of the hull)^2 = 1/7 - 2/18.
    assert abs(float(L.iou_of(a, b, complete=True)) - (1 / 7 - 1 / 9)) < 1e-5
    assert abs(float(L.iou_of(a, a, complete=True)) - 1) < 1e-5
    # Other aspect, same centre: IoU = 2/4 of (0,0,4,1) and (1,0,3,1); v = 4/pi^2 (atan 2 - atan 4)^2.
    a, b = torch.tensor([[0.0, 0, 4, 1]]), torch.tensor([[1.0, 0, 3, 1]])
    v = 4 / math.pi ** 2 * (math.atan(2) - math.atan(4)) ** 2
    assert abs(float(L.iou_of(a, b, complete=True)) - (0.5 - v * v / (v - 0.5 + 1))) < 1e-5


def random_objects(rng, batch, size, most=6):
    truths = []
    for _ in range(batch):
        n = int(rng.integers(0, most))
        centre, side = rng.uniform(0, size, (n, 2)), np.exp(rng.uniform(math.log(3), math.log(size * 0.7), (n, 2)))
        box = np.concatenate((centre - side / 2, centre + side / 2), 1).clip(0, size).astype(np.float32)
        truths.append(Truth(box, rng.integers(0, 6, n), rng.random(n) < 0.2))
    return objects_of(truths)


def brute_assign(scores, boxes, objects, size):
    """The same rules, written as loops over all objects and anchors."""
    centres, strides = anchors_of(size, size)
    points = (centres * strides).numpy()
    owner = {}
    metric = {}
    for j in range(len(objects.label)):
        b = int(objects.picture[j])
        x1, y1, x2, y2 = objects.box[j].tolist()
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        hw, hh = max((x2 - x1) / 2, L.REGION_MIN / 2), max((y2 - y1) / 2, L.REGION_MIN / 2)
        found = []
        for k, (px, py) in enumerate(points):
            if cx - hw < px < cx + hw and cy - hh < py < cy + hh:
                iou = max(float(L.iou_of(boxes[b, k], objects.box[j], complete=True)), 0)
                align = float(scores[b, k, objects.label[j]]) ** L.ALPHA * iou ** L.BETA
                if align > 0:
                    found.append((align, k, iou))
        found.sort(key=lambda f: (-f[0], f[1]))
        for align, k, iou in found[:L.TOP]:
            metric[b, k, j] = align, iou
    for (b, k, j), (align, iou) in sorted(metric.items()):
        if (b, k) not in owner or iou > metric[b, k, owner[b, k]][1]:
            owner[b, k] = j
    out = {}
    for (b, k), j in owner.items():
        mine = [metric[bb, kk, j] for (bb, kk), jj in owner.items() if jj == j]
        out[b, k] = j, metric[b, k, j][0] * max(m[1] for m in mine) / (max(m[0] for m in mine) + 1e-9)
    return out


def test_assigner_is_as_brute_force():
    rng, size = np.random.default_rng(0), 96
    grid, positives = L.Grid(size, size), 0
    for case in range(25):
        torch.manual_seed(case)
        objects = random_objects(rng, 2, size)
        objects = objects.only(~objects.ignore)
        scores = torch.rand(2, grid.count, 6)
        centre = (grid.centres * grid.strides)[None] + torch.randn(2, grid.count, 2) * 4
        side = torch.rand(2, grid.count, 2) * 25 + 2
        boxes = torch.cat((centre - side, centre + side), 2)
        got = {(int(b), int(k)): (int(j), float(t)) for b, k, j, t in zip(*L.assign(scores, boxes, objects, grid))}
        wanted = brute_assign(scores, boxes, objects, size)
        assert got.keys() == wanted.keys(), case
        for key, (j, target) in wanted.items():
            assert got[key][0] == j and abs(got[key][1] - target) < 1e-4, (case, key)
        positives += len(got)
    assert positives > 300, "the cases must have something to assign"


def test_decode_inverts_encode():
    """Logits with all weight on the two bins beside a distance decode to the box, and cost nearly nothing beyond entropy."""
    grid = L.Grid(128, 128)
    rng = np.random.default_rng(1)
    distance = torch.from_numpy(rng.uniform(0, BINS - 1.02, (grid.count, 4))).float()
    left = distance.long()
    share = distance - left
    p = torch.zeros(grid.count, 4, BINS).scatter_(2, left[..., None], (1 - share)[..., None])
    p.scatter_(2, left[..., None] + 1, share[..., None])
    sides = (p + 1e-12).log().permute(1, 2, 0).reshape(1, 4 * BINS, grid.count)
    boxes = decode(sides, grid.centres, grid.strides)[0]
    wanted = torch.cat((grid.centres - distance[:, :2], grid.centres + distance[:, 2:]), 1) * grid.strides
    assert float((boxes - wanted).abs().max()) < 1e-3
    entropy = -(p * (p + 1e-12).log()).sum(2).mean(1)
    got = L.dfl_loss((p + 1e-12).log(), distance)
    assert float((got - entropy).abs().max()) < 1e-4


def test_ignored_objects_cost_nothing():
    """Scores on an ignored object do not change the loss; the same scores elsewhere do."""
    size = 96
    box = np.array([[32, 32, 64, 64]], np.float32)
    sides, scores = torch.zeros(1, 64, 189), torch.full((1, 6, 189), -6.0)
    _, anchors = L.Grid(size, size).pairs(torch.from_numpy(box))
    assert len(anchors) == 16 + 4 + 1
    loud = scores.clone()
    loud[0, 2, anchors] = 3.0
    cost = lambda s, truth: float(L.Loss()(sides, s, objects_of([truth]), size, size)[0])
    car = lambda ignore: Truth(box, np.array([2]), np.array([ignore]))
    nothing = Truth(box[:0], np.zeros(0, np.int64), np.zeros(0, bool))
    assert abs(cost(loud, car(True)) - cost(scores, car(True))) < 1e-6
    assert cost(loud, nothing) > cost(scores, nothing) + 1
    assert cost(loud, car(False)) != cost(scores, car(False))


def draw_folder(path, count, seed=0):
    """Rectangles and ellipses on noise, in the format of the renderer."""
    rng, path = np.random.default_rng(seed), Path(path)
    (path / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        picture = cv2.resize(rng.integers(60, 200, (9, 16, 3)).astype(np.uint8), (640, 360))
        for _ in range(int(rng.integers(3, 7))):
            c = int(rng.integers(6))
            w, h = (int(v) for v in rng.uniform(30, 120, 2))
            x, y = int(rng.integers(0, 640 - w)), int(rng.integers(0, 360 - h))
            colour = [int(v) for v in np.eye(3)[c % 3] * 255]
            if c < 3:
                cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), colour, -1)
            else:
                cv2.ellipse(picture, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, colour, -1)
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, "category_id": c + 1, "bbox": [x, y, w, h],
                                "area": w * h, "iscrowd": 0, "ignore": 0})
        cv2.imwrite(str(path / "images" / f"{i:04d}.jpg"), picture)
        images.append({"id": i + 1, "file_name": f"{i:04d}.jpg", "width": 640, "height": 360})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    text = {"images": images, "annotations": annotations, "categories": categories}
    (path / "instances.json").write_text(json.dumps(text))
    return path


def test_augmentation_is_a_function_of_seed_and_number():
    with tempfile.TemporaryDirectory() as place:
        cache = Cache(Folder(draw_folder(Path(place) / "a", 6)))
        for strong in (True, False):
            one, truth = Augment(cache, 5)(17, 320, strong)
            other = Augment(cache, 5)
            other(3, 320, strong)
            again, truth_again = other(17, 320, strong)
            assert (one == again).all() and (truth.box == truth_again.box).all()
            assert (Augment(cache, 6)(17, 320, strong)[0] != one).any()
        numbers = sorted(Augment(cache, 5).index_of(n) for n in range(6, 12))
        assert numbers == list(range(6)), "a pass shows every frame once"


def test_boxes_follow_the_pixels():
    """In weak and strong pictures of one white rectangle on black, its box is where the pixels are white."""
    with tempfile.TemporaryDirectory() as place:
        folder = draw_folder(Path(place) / "a", 2)
        cache = Cache(Folder(folder))
        frame = np.zeros((360, 640, 3), np.uint8)
        frame[120:200, 250:400] = 255
        cache.picture = lambda index: frame
        cache.truths = [Truth(np.array([[250, 120, 400, 200]], np.float32), np.array([2]), np.array([False]))] * 2
        augment = Augment(cache, 1)
        augment.looks = SimpleNamespace(cell=lambda rng, part, strong: part, finish=lambda rng, p, t, strong: (p, t))
        checked = 0
        for number in range(600):
            picture, truth = augment(number, 320, number % 2 == 0)
            # With several rectangles, or a bright filling, the white pixels are not those of one box.
            if len(truth.box) != 1 or np.isin(picture, (0, 255)).mean() < 0.9:
                continue
            y, x = np.nonzero((picture > 127).all(2))
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            # A turned rectangle that the window cuts may lack a corner: then its label is a little too large.
            cut = (np.abs(truth.box[0] - truth.box[0].round()) < 1e-4).any()
            apart = (seen - truth.box[0]) * [1, 1, -1, -1]  # inside the label: positive
            assert apart.min() > -2.0 and (cut or apart.max() < 2.0), (number, seen, truth.box)
            checked += not cut
        assert checked > 20, checked


def test_plan_and_learning_rate():
    speed = {256: 0.2, 320: 0.3}
    plan = Plan.by_time(3000, speed)
    steps = [plan.at(s) for s in range(plan.steps)]
    assert abs(sum(speed[size] for _, size, _ in steps) - 3000) < 2
    assert all(b[0] > a[0] for a, b in zip(steps, steps[1:])) and steps[-1][0] > 0.999 and not steps[-1][2]
    # Half as fast from step 5000 on: the rest still ends annealed, in the time that is left.
    shorter = plan.replanned(5000, 1500, {256: 0.4, 320: 0.6})
    assert max(abs(shorter.at(s)[0] - steps[s][0]) for s in range(5000)) < 1e-9
    rest = [shorter.at(s) for s in range(5000, shorter.steps)]
    assert abs(sum(2 * speed[size] for _, size, _ in rest) - 1500) < 3 and rest[-1][0] > 0.999
    assert learning_rate(0) == 0 and abs(learning_rate(0.02) - 1) < 1e-9 and learning_rate(1) < 0.0101


def test_average_precision_is_pycocotools():
    try:
        from pycocotools.coco import COCO  # noqa: F401
    except ImportError:
        return print("  skipped: no pycocotools")
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as place:
        path = draw_folder(Path(place) / "a", 30)
        text = json.loads((path / "instances.json").read_text())
        for a in text["annotations"]:
            a["iscrowd"] = a["ignore"] = int(rng.random() < 0.15)
        (path / "instances.json").write_text(json.dumps(text))
        folder = Folder(path)
        cache, score, found = Cache(folder), evaluate.Score(), []
        for i, truth in enumerate(cache.truths):
            boxes = np.concatenate([truth.box + rng.normal(0, 6, truth.box.shape) for _ in range(3)])
            boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:] - 2), boxes[:, 2:]), 1)
            labels = np.where(rng.random(len(boxes)) < 0.8, np.tile(truth.label, 3), rng.integers(0, 6, len(boxes)))
            scores = rng.random(len(boxes))
            found.append((i, boxes, scores, labels))
            score.add(boxes, scores, labels, truth)
        ours, theirs = score.summary(), evaluate.by_pycocotools(folder, cache, found)
        for key in ("map50", "map50_95"):
            assert abs(ours[key] - theirs[key]) < 1e-4, (key, ours[key], theirs[key])
        assert 0.1 < ours["map50"] < 0.99


def test_export_is_as_pytorch():
    torch.manual_seed(0)
    detector = Detector(PRESETS[DEFAULT])
    for module in detector.modules():  # statistics as after training, so that folding them is tested
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    detector.eval()
    x = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        before = detector(x)
        detector.fuse()
        after = detector(x)
    assert all(float((a - b).abs().max()) < 1e-3 for a, b in zip(before, after))
    boxes = decode(after[0], *anchors_of(320, 320))[0]
    with tempfile.TemporaryDirectory() as place:
        for dynamic in (False, True):
            file = Path(place) / "m.onnx"
            detector_again = Detector(PRESETS[DEFAULT])
            detector_again.fuse()
            detector_again.load_state_dict(detector.state_dict())
            _, worst = export.export(detector_again.eval(), file, (320, 320), dynamic)
            assert worst < 1e-3 and file.stat().st_size <= 3_000_000, (worst, file.stat().st_size)
            picture = (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            ours, scores = evaluate.onnx_runner(str(file))(picture[None])
            assert ours.shape == (1, 2100, 4) and scores.shape == (1, 2100, 6)
            assert np.abs(ours[0] - boxes.numpy()).max() < 1.0  # the pictures differ by rounding to 8 bits


def test_overfits_eight_pictures():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        cache = Cache(Folder(draw_folder(Path(place) / "a", 8)))
        augment = Augment(cache, 0)
        model = Detector(PRESETS[DEFAULT]).train()
        flat = Flat(model)
        optimiser = torch.optim.AdamW(flat.leaves(), lr=2e-3, fused=True)
        compute = L.Loss()
        for step in range(220):
            pictures, objects = batch_of(augment, range(step * 8, step * 8 + 8), 320, False)
            flat.exchange.zero_()
            with torch.autocast("cpu", torch.bfloat16):
                sides, scores = model(pictures.to(torch.bfloat16) / 255)
            value, _ = compute(sides, scores, objects, 320, 320)
            value.backward()
            flat.average(1)
            optimiser.param_groups[0]["lr"] = 2e-3 * learning_rate(step / 220)
            optimiser.step()
        score = evaluate.Score()
        for i, *rest in evaluate.detections(evaluate.torch_runner(model.eval()), cache, list(range(8)), 320, 320):
            score.add(*rest, cache.truths[i])
        found = score.summary()["map50"]
        assert found > 0.9, found


def main():
    random.seed(0)
    torch.set_num_threads(1)
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    for name in sys.argv[1:] or tests:
        print(name, flush=True)
        tests[name]()
    print(f"all well; {parameters_of(Detector(PRESETS[DEFAULT]))} parameters")


if __name__ == "__main__":
    main()
