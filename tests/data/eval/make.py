#!/usr/bin/env python3
"""Makes the cases that tests/it/eval.rs scores, with what pycocotools says of them. Seeded; needs numpy and pycocotools.

  pip install numpy pycocotools && python3 make.py      (rewrites NAME.json beside itself)
"""
import contextlib, io, json, os
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HERE = os.path.dirname(os.path.abspath(__file__))


def boxes(rng, count, small=False):
    side = rng.uniform(4, 40 if small else 220, (count, 2))
    at = rng.uniform(0, 400, (count, 2))
    return np.round(np.concatenate([at, side], 1), 2)


def case(seed, pictures=12, classes=3, objects=6, crowd=0.0, wrong=4, jitter=0.15, equal_scores=False, found=1.0, small=False):
    rng = np.random.default_rng(seed)
    truth = {"images": [{"id": 7 * (pictures - i), "file_name": f"{i}.jpg"} for i in range(pictures)], "annotations": [],
             "categories": [{"id": 10 + c, "name": f"class {c}"} for c in range(classes)]}
    results = []
    for image in truth["images"]:
        for box in boxes(rng, rng.poisson(objects), small):
            c = int(rng.integers(classes))
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": 10 + c,
                "bbox": box.tolist(), "area": round(float(box[2] * box[3] * rng.uniform(0.5, 1)), 2), "iscrowd": int(rng.random() < crowd)})
            for _ in range(int(rng.integers(1, 4))):
                if rng.random() < found:
                    moved = np.round(box + rng.normal(0, jitter, 4) * box[[2, 3, 2, 3]], 2)
                    moved[2:] = np.maximum(moved[2:], 1)
                    results.append({"image_id": image["id"], "category_id": 10 + (c if rng.random() < 0.9 else int(rng.integers(classes))),
                        "bbox": moved.tolist(), "score": round(float(rng.random()), 1 if equal_scores else 4)})
        for box in boxes(rng, rng.poisson(wrong), small):
            results.append({"image_id": image["id"], "category_id": 10 + int(rng.integers(classes)), "bbox": box.tolist(), "score": round(float(rng.random()), 4)})
    return truth, results


CASES = {
    "plain": case(1),
    "crowded": case(2, pictures=4, classes=2, objects=60, crowd=0.2, wrong=150, equal_scores=True),
    "small": case(3, small=True, jitter=0.08),
    "equal-scores": case(4, equal_scores=True, wrong=20),
    "no-results": (case(5)[0], []),
    "all-wrong": (case(6)[0], [dict(r, bbox=[900, 900, 10, 10]) for r in case(6)[1]]),
    "nothing-there": (dict(case(7)[0], annotations=[]), case(7)[1]),
    "class-without-objects": (dict(case(8)[0], annotations=[a for a in case(8)[0]["annotations"] if a["category_id"] != 11]), case(8)[1]),
    "more-than-a-hundred": case(9, pictures=2, classes=1, objects=10, wrong=300),
}

for name, (truth, results) in CASES.items():
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        e = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        if not results:
            e.cocoDt.dataset, e.cocoDt.anns = {"annotations": [], "images": truth["images"], "categories": truth["categories"]}, {}
            e.cocoDt.createIndex()
        e.evaluate(), e.accumulate(), e.summarize()
    figures = [None if s < 0 else round(100 * float(s), 6) for s in e.stats[[0, 1, 3, 4, 5]]]
    with open(os.path.join(HERE, name + ".json"), "w") as file:
        json.dump({"pycocotools": figures, "truth": truth, "results": results}, file, separators=(",", ":"))
        file.write("\n")
    print(name, figures, len(truth["annotations"]), len(results))
