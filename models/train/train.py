"""Trains the detector on the CPU within a budget of minutes.

  python train.py --data TRAIN --val VAL --out RUN [--minutes 85] [--seed 1] [--resume]

One process a core, each with one thread and half of the batch; gradients and batch-norm statistics are averaged. That
is a third faster than one process with two threads, and leaves no order of summation to chance.

The plan (how many steps of what kind) comes from a speed measured at the start and is written into the log. When the
machine turns out to be slower, the rest of the plan is shortened, and that is logged; `--steps` fixes the number.
RUN gets log.jsonl, last.pt (all that --resume needs) and final.pt.
"""
import argparse
import copy
import json
import math
import os
import platform
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from data import Augment, Cache, Folder, batch_of
from evaluate import Score, detections, torch_runner
from loss import Loss
from model import DEFAULT, PRESETS, Detector, parameters_of

# Share of the budget, side of the pictures, strong augmentation. Small pictures first: they cost half, and what the
# early steps learn does not depend on the finest detail (progressive resizing, as in EfficientNetV2, Tan & Le 2021).
PHASES = ((0.25, 256, True), (0.15, 320, True), (0.60, 320, False))
WARMUP = 0.02        # share of the steps in which the learning rate rises
LR_LAST = 0.01       # share of the learning rate that is left at the end
EMA_DECAY, EMA_RAMP = 0.9995, 1000
CLIP = 10.0          # norm of the gradient
RESERVE = 0.04       # share of the minutes that plans leave for what steps do not account for: start, export, noise


class Flat:
    """A model's numbers in one piece: [decayed weights | other weights | batch-norm statistics], and their gradients.

    The optimiser, the average and the exchange between processes then are a few operations instead of hundreds.
    """

    def __init__(self, model):
        decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        statistics = list(model.buffers())
        count = lambda tensors: sum(t.numel() for t in tensors)
        self.split, self.weights = count(decayed), count(decayed) + count(others)
        self.values = torch.cat([t.detach().flatten() for t in decayed + others + statistics])
        self.exchange = torch.zeros_like(self.values)  # gradients, then statistics
        start = 0
        for tensor in decayed + others + statistics:
            piece = slice(start, start + tensor.numel())
            tensor.data = self.values[piece].view(tensor.shape)
            if isinstance(tensor, nn.Parameter):
                tensor.grad = self.exchange[piece].view(tensor.shape)
            start = piece.stop

    def average(self, ranks):
        """After this all processes have the same gradients and statistics. Gives the gradient's norm."""
        if ranks > 1:
            self.exchange[self.weights:] = self.values[self.weights:]
            dist.all_reduce(self.exchange)
            self.exchange /= ranks
            self.values[self.weights:] = self.exchange[self.weights:]
        gradient = self.exchange[:self.weights]
        norm = float(gradient.norm())
        if norm > CLIP:
            gradient *= CLIP / norm
        return norm

    def leaves(self):
        """The weights as two parameters for the optimiser: decayed, and not."""
        leaves = []
        for piece in (slice(0, self.split), slice(self.split, self.weights)):
            leaf = nn.Parameter(self.values[piece])
            leaf.grad = self.exchange[piece]
            leaves.append(leaf)
        return leaves


class Plan:
    """Pieces of the run: (first step, steps, progress at the first, progress after the last, size, strong)."""

    def __init__(self, pieces):
        self.pieces = [tuple(p) for p in pieces]

    @classmethod
    def by_time(cls, seconds, step_seconds, from_step=0, from_progress=0.0):
        """The rest of the run from there on, so that it takes `seconds`. The learning rate follows the budget's share,
        and so do the phases."""
        pieces, end, step = [], 0.0, from_step
        for share, size, strong in PHASES:
            start, end = max(end, from_progress), end + share
            if end - start > 1e-9:
                part = (end - start) / (1 - from_progress)
                steps = max(round(seconds * part / step_seconds[size]), 1)
                pieces.append((step, steps, start, min(end, 1.0), size, strong))
                step += steps
        return cls(pieces)

    @classmethod
    def by_steps(cls, steps):
        """About so many steps, the same on every machine: a picture is taken to cost as much as it has pixels."""
        cost = {size: size ** 2 / 320 ** 2 for _, size, _ in PHASES}
        return cls.by_time(steps / sum(share / cost[size] for share, size, _ in PHASES), cost)

    @property
    def steps(self):
        return self.pieces[-1][0] + self.pieces[-1][1]

    def at(self, step):
        """Progress (0..1), size and strength of a step."""
        for first, steps, start, end, size, strong in self.pieces:
            if step < first + steps:
                return start + (end - start) * (step - first) / steps, size, strong
        raise IndexError(step)

    def replanned(self, step, seconds, step_seconds):
        """The past as it was, the rest anew."""
        progress = self.at(step)[0]
        past = []
        for first, steps, start, end, size, strong in self.pieces:
            if first < step:
                n = min(steps, step - first)
                past.append((first, n, start, start + (end - start) * n / steps, size, strong))
        return Plan(past + Plan.by_time(seconds, step_seconds, step, progress).pieces)


def learning_rate(progress):
    if progress < WARMUP:
        return progress / WARMUP
    share = (progress - WARMUP) / (1 - WARMUP)
    return LR_LAST + (1 - LR_LAST) * 0.5 * (1 + math.cos(math.pi * share))


class Trainer:
    def __init__(self, rank, a):
        self.rank, self.a = rank, a
        torch.manual_seed(a.seed)
        self.train_folder, self.val_folder = Folder(a.data), Folder(a.val)
        self.cache, self.val = Cache(self.train_folder), Cache(self.val_folder)
        self.augment = Augment(self.cache, a.seed)
        self.widths = PRESETS[a.widths]
        self.model = Detector(self.widths).train()
        self.flat = Flat(self.model)
        self.mean = copy.deepcopy(self.model).eval()
        self.flat_mean = Flat(self.mean)
        decayed, others = self.flat.leaves()
        self.optimiser = torch.optim.AdamW([{"params": [decayed], "weight_decay": a.decay},
                                            {"params": [others], "weight_decay": 0.0}],
                                           lr=a.lr, betas=(0.9, 0.99), fused=True)
        self.loss = Loss()
        self.step, self.plan = 0, None
        self.pace = None  # seconds a step and squared pixel of side
        self.before = 0.0  # seconds of the runs before this one
        self.started = time.monotonic()

    def elapsed(self):
        return self.before + time.monotonic() - self.started

    def log(self, event, **what):
        if self.rank == 0:
            line = {"event": event, "seconds": round(self.elapsed(), 1), "step": self.step, **what}
            with open(Path(self.a.out) / "log.jsonl", "a") as out:
                out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)

    def one_step(self, step, size, strong):
        """Gradients of one batch into `flat.exchange`, averaged. Gives the losses' parts and the gradient's norm."""
        share = self.a.batch // self.a.ranks
        first = step * self.a.batch + self.rank * share
        pictures, objects = batch_of(self.augment, range(first, first + share), size, strong)
        self.flat.exchange.zero_()
        x = pictures.to(torch.bfloat16) / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=self.a.bf16):
            sides, scores = self.model(x if self.a.bf16 else x.float())
        loss, parts = self.loss(sides, scores, objects, size, size)
        loss.backward()
        norm = self.flat.average(self.a.ranks)
        return parts, norm

    def update(self, progress):
        rate = learning_rate(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.a.lr * rate
        self.optimiser.step()
        decay = EMA_DECAY * (1 - math.exp(-(self.step + 1) / EMA_RAMP))
        self.flat_mean.values.lerp_(self.flat.values, 1 - decay)

    def measure(self, steps=6):
        """Seconds of a step for each size, with all that belongs to it. The weights are as before afterwards."""
        kept = self.flat.values.clone()
        seconds = {}
        for size in sorted({size for _, size, _ in PHASES}):
            times = []
            for k in range(steps + 2):
                start = time.monotonic()
                self.one_step(k, size, True)
                times.append(time.monotonic() - start)
            seconds[size] = self.agreed(float(np.mean(times[2:])))
        self.flat.values.copy_(kept)
        return seconds

    def agreed(self, number):
        """The largest of all processes' numbers: they must decide alike."""
        if self.a.ranks == 1:
            return number
        one = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(one, dist.ReduceOp.MAX)
        return float(one)

    def evaluate(self):
        """mAP of the averaged weights on the validation folder; each process takes its share of the pictures."""
        score = Score()
        mine = list(range(self.rank, len(self.val), self.a.ranks))
        for i, boxes, scores, labels in detections(torch_runner(self.mean), self.val, mine, self.a.size, self.a.size,
                                                   score_min=0.01, candidates=500):
            score.add(boxes, scores, labels, self.val.truths[i])
        if self.a.ranks > 1:
            all_scores = [None] * self.a.ranks
            dist.all_gather_object(all_scores, score)
            for other in all_scores[:self.rank] + all_scores[self.rank + 1:]:
                score.join(other)
        return score.summary()

    def save(self, name):
        if self.rank != 0:
            return
        state = {"widths": self.widths.as_dict(), "step": self.step, "seconds": self.elapsed(),
                 "plan": [list(p) for p in self.plan.pieces], "seed": self.a.seed, "batch": self.a.batch,
                 "ranks": self.a.ranks, "data_sha256": self.train_folder.sha256,
                 "model": self.model.state_dict(), "ema": self.mean.state_dict(),
                 "optimiser": self.optimiser.state_dict(), "torch_rng": torch.get_rng_state(), "pace": self.pace}
        part = Path(self.a.out) / (name + ".part")
        with open(part, "wb") as out:
            torch.save(state, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, part.with_suffix(""))

    def load(self, path):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, mine in (("widths", self.widths.as_dict()), ("seed", self.a.seed), ("batch", self.a.batch),
                           ("ranks", self.a.ranks), ("data_sha256", self.train_folder.sha256)):
            if saved[name] != mine:
                raise SystemExit(f"{path} was made with another {name}: {saved[name]}, not {mine}")
        self.model.load_state_dict(saved["model"])
        self.mean.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["torch_rng"])
        self.step, self.before, self.plan = saved["step"], saved["seconds"], Plan(saved["plan"])
        self.pace = saved["pace"]

    def run(self):
        a = self.a
        last = Path(a.out) / "last.pt"
        resumed = a.resume and last.exists()
        if resumed:
            self.load(last)
        self.log("start", resumed=resumed, seed=a.seed, options=vars(a), widths=self.widths.as_dict(),
                 parameters=parameters_of(self.model), torch=torch.__version__, numpy=np.__version__,
                 opencv=cv2.__version__, python=platform.python_version(), cpu=cpu_name(), cores=os.cpu_count(),
                 train_pictures=len(self.cache), train_sha256=self.train_folder.sha256,
                 val_pictures=len(self.val), val_sha256=self.val_folder.sha256)
        if not resumed:
            speed = self.measure()
            left = a.minutes * 60 * (1 - RESERVE) - self.elapsed()
            self.plan = Plan.by_steps(a.steps) if a.steps else Plan.by_time(left, speed)
            self.log("plan", seconds_a_step=speed, pieces=self.plan.pieces, steps=self.plan.steps,
                     pictures=self.plan.steps * a.batch)
        while self.step < self.plan.steps:
            self.stretch()
        self.log("final", **self.evaluate(), pictures=self.step * a.batch)
        self.save("final.pt")

    def stretch(self):
        """Some steps, then an evaluation, a checkpoint, and a look at the clock."""
        a = self.a
        until = min(self.step + a.every, self.plan.steps)
        # No stretch across a change of kind, so that its speed is of one kind.
        piece = next(p for p in self.plan.pieces if self.step < p[0] + p[1])
        until = min(until, piece[0] + piece[1])
        start, first, sums, norms = time.monotonic(), self.step, torch.zeros(3), 0.0
        while self.step < until:
            progress, size, strong = self.plan.at(self.step)
            parts, norm = self.one_step(self.step, size, strong)
            if not math.isfinite(norm):
                raise SystemExit(f"step {self.step}: the gradient is not finite")
            self.update(progress)
            self.step += 1
            sums += parts
            norms += norm
        steps = self.step - first
        seconds = (time.monotonic() - start) / steps
        losses = {name: round(float(v) / steps, 4) for name, v in zip(("box", "class", "dfl"), sums)}
        start = time.monotonic()
        summary = self.evaluate()
        evaluation = time.monotonic() - start
        self.log("stretch", progress=round(progress, 4), passes=round(self.step * a.batch / len(self.cache), 2),
                 size=size, strong=strong, loss=losses, norm=round(norms / steps, 2), rate=learning_rate(progress) * a.lr,
                 seconds_a_step=round(seconds, 4), evaluation_seconds=round(evaluation, 1),
                 map50=round(summary["map50"], 4), map50_95=round(summary["map50_95"], 4),
                 ap50={name: one["ap50"] for name, one in summary["classes"].items()})
        if not a.steps and self.step < self.plan.steps:
            self.look_at_clock(size, seconds + evaluation / steps)
        self.save("last.pt")  # after the look, so that a resume has the same plan

    def look_at_clock(self, size, step_seconds):
        """Plans the rest anew if it would not end in time, or too early. A step took `step_seconds`, all included."""
        # Half of what was believed before is kept: a short disturbance must not cut the plan down.
        now = self.agreed(step_seconds) / size ** 2
        self.pace = now if self.pace is None else (self.pace + now) / 2
        speed = {s: self.pace * s ** 2 for s in sorted({s for _, s, _ in PHASES})}
        left = self.agreed(self.a.minutes * 60 * (1 - RESERVE) - self.elapsed())
        needed = sum(max(p[0] + p[1] - max(p[0], self.step), 0) * speed[p[4]] for p in self.plan.pieces)
        if abs(needed / left - 1) > 0.03 and left > 5 * speed[size]:
            self.plan = self.plan.replanned(self.step, left, speed)
            self.log("replan", seconds_a_step=speed, steps=self.plan.steps,
                     pieces=[p for p in self.plan.pieces if p[0] >= self.step])


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def worker(rank, a, meeting):
    torch.set_num_threads(1)
    if a.ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=a.ranks)
    Trainer(rank, a).run()
    if a.ranks > 1:
        dist.destroy_process_group()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="folder with images/ and instances.json")
    p.add_argument("--val", required=True, help="the same, from other seeds")
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=85, help="all of the run, with the measuring and the evaluations")
    p.add_argument("--steps", type=int, default=0, help="instead: so many steps, however long they take")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt, if it exists")
    p.add_argument("--widths", default=DEFAULT, choices=sorted(PRESETS))
    p.add_argument("--batch", type=int, default=32, help="pictures a step, of all processes together")
    p.add_argument("--ranks", type=int, default=2, help="processes; one a core")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--decay", type=float, default=0.02)
    p.add_argument("--size", type=int, default=320, help="side of the evaluation's pictures")
    p.add_argument("--every", type=int, default=600, help="steps between evaluations")
    p.add_argument("--fp32", dest="bf16", action="store_false", help="do not compute in bfloat16")
    a = p.parse_args()
    if a.batch % a.ranks:
        p.error("--batch must be a multiple of --ranks")
    Path(a.out).mkdir(parents=True, exist_ok=True)
    if not a.resume and (Path(a.out) / "last.pt").exists():
        p.error(f"{a.out} holds a run already: --resume it, or choose another folder")
    for folder in (a.data, a.val):
        Cache(Folder(folder))  # before the processes start, so that they find it
    # Where the processes meet; a new file for each run.
    meeting = Path(a.out).resolve() / f"meeting-{os.getpid()}"
    try:
        if a.ranks == 1:
            worker(0, a, meeting)
        else:
            mp.spawn(worker, (a, meeting), a.ranks)
    finally:
        meeting.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
