"""Which anchor answers for which object, and what a wrong answer costs.

Assignment: task alignment (TOOD, Feng et al. 2021). Box loss: complete IoU (Zheng et al. 2020) and the distribution
focal loss (Li et al. 2020). Class loss: binary cross entropy against TOOD's soft targets. All ragged: only pairs of an
object and an anchor inside it are looked at, some ten thousand a batch, where a padded table would have millions.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model import BINS, STRIDES, anchors_of, decode

TOP = 10            # anchors an object may get
ALPHA, BETA = 0.5, 6.0  # alignment = score^ALPHA * IoU^BETA
REGION_MIN = 10.0   # px: smaller objects look for anchors in a region of that side, or none might lie inside
GAIN_BOX, GAIN_CLASS, GAIN_DFL = 7.5, 0.5, 1.5  # the usual weights of the YOLO family since v8


def iou_of(a, b, complete=False, eps=1e-7):
    """IoU of corner boxes, pair by pair; `complete` subtracts the distance of centres and the difference in aspect."""
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    inter = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0) \
        * (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    iou = inter / (aw * ah + bw * bh - inter + eps)
    if not complete:
        return iou
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    apart = ((bx1 + bx2 - ax1 - ax2) ** 2 + (by1 + by2 - ay1 - ay2) ** 2) / 4
    aspect = 4 / math.pi ** 2 * (torch.atan(bw / (bh + eps)) - torch.atan(aw / (ah + eps))) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + 1 + eps)
    return iou - apart / (hull_w ** 2 + hull_h ** 2 + eps) - aspect * weight


@dataclass
class Objects:
    """All objects of a batch in one list. Boxes are corners in pixels."""

    picture: torch.Tensor  # long [n], index in the batch
    label: torch.Tensor    # long [n]
    box: torch.Tensor      # float [n, 4]
    ignore: torch.Tensor   # bool [n]: neither right nor wrong

    def only(self, keep):
        return Objects(self.picture[keep], self.label[keep], self.box[keep], self.ignore[keep])


class Grid:
    """The anchors of one input size."""

    def __init__(self, height, width):
        self.sides = [(height // s, width // s) for s in STRIDES]
        self.centres, self.strides = anchors_of(height, width)  # in strides, of each
        self.count = len(self.strides)

    def pairs(self, boxes):
        """All (box, anchor) with the anchor's centre inside the box, ordered by box."""
        rows, columns, start = [], [], 0
        for stride, (h, w) in zip(STRIDES, self.sides):
            x = (torch.arange(w) + 0.5) * stride
            y = (torch.arange(h) + 0.5) * stride
            in_x = (x > boxes[:, 0:1]) & (x < boxes[:, 2:3])
            in_y = (y > boxes[:, 1:2]) & (y < boxes[:, 3:4])
            found = (in_y[:, :, None] & in_x[:, None, :]).flatten(1).nonzero()
            rows.append(found[:, 0])
            columns.append(found[:, 1] + start)
            start += h * w
        box, anchor = torch.cat(rows), torch.cat(columns)
        order = torch.argsort(box, stable=True)
        return box[order], anchor[order]


def grown(boxes, side):
    """Boxes with each side at least `side`, about the same centre."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=side / 2)
    return torch.cat((centre - half, centre + half), 1)


@torch.no_grad()
def assign(scores, boxes, objects, grid):
    """Positives of a batch: picture, anchor, object (index into `objects`), target score.

    `scores` [b, anchors, classes] and `boxes` [b, anchors, 4] are what the network says now; `objects` has no ignored
    ones. An object takes its TOP best aligned anchors; an anchor that several took goes to the one it overlaps most.
    The target is the alignment, scaled so that an object's best anchor gets the object's best IoU.
    """
    obj, anchor = grid.pairs(grown(objects.box, REGION_MIN))
    picture = objects.picture[obj]
    score = scores[picture, anchor, objects.label[obj]]
    iou = iou_of(boxes[picture, anchor], objects.box[obj], complete=True).clamp(min=0)
    align = score.float() ** ALPHA * iou ** BETA

    # Rank within the object: sort by alignment, then stably by object.
    order = torch.argsort(align, descending=True, stable=True)
    order = order[torch.argsort(obj[order], stable=True)]
    first = torch.searchsorted(obj[order], torch.arange(len(objects.label)))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - first[obj[order]]
    # Without any overlap there is nothing to prefer by, and the box loss has no direction worth following.
    keep = (rank < TOP) & (align > 0)
    obj, anchor, picture, align, iou = obj[keep], anchor[keep], picture[keep], align[keep], iou[keep]

    # One object an anchor: the best IoU, the first of equals.
    place = picture * grid.count + anchor
    order = torch.argsort(iou, descending=True, stable=True)
    order = order[torch.argsort(place[order], stable=True)]
    sorted_place = place[order]
    fresh = torch.ones(len(order), dtype=torch.bool)
    fresh[1:] = sorted_place[1:] != sorted_place[:-1]
    keep = order[fresh]
    obj, anchor, picture, align, iou = obj[keep], anchor[keep], picture[keep], align[keep], iou[keep]

    count = len(objects.label)
    align_max = torch.zeros(count).scatter_reduce(0, obj, align, "amax")
    iou_max = torch.zeros(count).scatter_reduce(0, obj, iou, "amax")
    target = align * iou_max[obj] / (align_max[obj] + 1e-9)
    return picture, anchor, obj, target


def dfl_loss(logits, distance):
    """Cross entropy against the two bins beside `distance` (in strides), in proportion. `logits` [n, 4, 16]."""
    distance = distance.clamp(0, BINS - 1 - 0.01)
    left = distance.long()
    right_share = distance - left
    log = F.log_softmax(logits, -1)
    both = torch.stack((left, left + 1), -1)
    picked = log.gather(-1, both)
    return -(picked[..., 0] * (1 - right_share) + picked[..., 1] * right_share).mean(-1)


class Loss:
    """Loss of a batch; keeps the anchors of the sizes it has seen."""

    def __init__(self):
        self.grids = {}

    def grid(self, height, width):
        if (height, width) not in self.grids:
            self.grids[height, width] = Grid(height, width)
        return self.grids[height, width]

    def __call__(self, sides, scores, objects, height, width):
        """Logits of the head, the batch's objects. Gives the sum to minimise (mean of a picture) and its parts."""
        grid = self.grid(height, width)
        sides, scores = sides.float(), scores.float().transpose(1, 2)  # scores: [b, anchors, classes]
        batch, _, classes = scores.shape
        wanted = objects.only(~objects.ignore)
        with torch.no_grad():
            picture, anchor, obj, target = assign(
                scores.sigmoid(), decode(sides, grid.centres, grid.strides), wanted, grid)

        goal = torch.zeros_like(scores)
        goal[picture, anchor, wanted.label[obj]] = target
        weight = torch.ones(batch, grid.count)
        hidden = objects.only(objects.ignore)
        if len(hidden.label):
            of, at = grid.pairs(grown(hidden.box, REGION_MIN))
            weight[hidden.picture[of], at] = 0.0
            weight[picture, anchor] = 1.0
        total = target.sum().clamp(min=1.0)
        loss_class = (F.binary_cross_entropy_with_logits(scores, goal, reduction="none") * weight[..., None]).sum() / total

        logits = sides.transpose(1, 2)[picture, anchor].view(-1, 4, BINS)
        centres, strides = grid.centres[anchor], grid.strides[anchor]
        distance = logits.softmax(-1) @ torch.arange(BINS, dtype=torch.float32)
        box = torch.cat((centres - distance[:, :2], centres + distance[:, 2:]), 1)
        truth = wanted.box[obj] / strides
        loss_box = ((1 - iou_of(box, truth, complete=True)) * target).sum() / total
        truth_distance = torch.cat((centres - truth[:, :2], truth[:, 2:] - centres), 1)
        loss_dfl = (dfl_loss(logits, truth_distance) * target).sum() / total

        loss = GAIN_BOX * loss_box + GAIN_CLASS * loss_class + GAIN_DFL * loss_dfl
        parts = torch.stack((loss_box, loss_class, loss_dfl)).detach()
        return loss, parts
