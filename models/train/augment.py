"""How pictures look: light, colour, lens, sensor, compression. Rendered pictures differ from photos in all of them, so
these changes are what a detector trained on rendering has to become blind to (domain randomisation, Tobin et al. 2017).

All on 8-bit pictures by tables and small matrices; a picture of 320x320 takes about 2 ms.
"""
import math

import cv2
import numpy as np

from data import Truth

GREY = np.array([0.299, 0.587, 0.114])
COVERED_MAX = 0.6  # share of a box under a patch; above that it is neither right nor wrong
_LEVEL = np.arange(256) / 255.0


class Looks:
    def __init__(self, seed):
        rng = np.random.default_rng((seed, 3))
        # Noise is cut out of these sheets: drawing it anew would take longer than all else. Fine, and coarse as after
        # a camera's noise filter.
        fine = rng.normal(0, 32, (640, 640, 3)).astype(np.float32)
        coarse = cv2.GaussianBlur(fine, (0, 0), 1.2)
        coarse *= 32 / coarse.std()
        self.sheets = [s.clip(-127, 127).astype(np.int8) for s in (fine, coarse)]
        self.textures = [_texture(rng) for _ in range(24)]

    def cell(self, rng, picture, strong):
        """What differs from camera to camera: colour, exposure, sharpness."""
        if strong:
            picture = _colours(rng, picture)
            if rng.random() < 0.35:
                picture = _blur(rng, picture)
            elif rng.random() < 0.2:
                soft = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 1.5))
                amount = rng.uniform(0.3, 1.2)
                picture = cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)
            return picture
        table = _curve(rng, 0.15)
        gain = rng.uniform(0.85, 1.15)
        return cv2.LUT(picture, (table * gain * 255).clip(0, 255).astype(np.uint8))

    def finish(self, rng, picture, truth, strong):
        """What lies over the whole picture."""
        size = picture.shape[0]
        if strong and rng.random() < 0.25:
            picture = self._shade(rng, picture)
        if strong and rng.random() < 0.12:
            texture = cv2.resize(self.textures[rng.integers(len(self.textures))], (size, size))
            share = rng.uniform(0.08, 0.3)
            picture = cv2.addWeighted(picture, 1 - share, texture, share, 0)
        if strong and rng.random() < 0.35:
            picture, truth = self._patches(rng, picture, truth)
        if rng.random() < (0.45 if strong else 0.2):
            picture = self._noise(rng, picture, 0.5 if strong else 0.15)
        if rng.random() < (0.3 if strong else 0.15):
            quality = int(rng.integers(20, 90) if strong else rng.integers(60, 95))
            _, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return picture, truth

    def _noise(self, rng, picture, most):
        size = picture.shape[0]
        sheet = self.sheets[rng.integers(2)]
        y, x = rng.integers(0, 640 - size, 2)
        noise = sheet[y:y + size, x:x + size]
        if rng.random() < 0.4:  # of brightness only
            noise = cv2.merge([noise[:, :, 0]] * 3)
        share = most * rng.random() ** 2
        return cv2.add(picture, (noise.astype(np.float32) * share).astype(np.int8), dtype=cv2.CV_8U)

    def _shade(self, rng, picture):
        """Soft light and shadow of large shapes, and hard-edged shadows."""
        size = picture.shape[0]
        cells = int(rng.integers(2, 6))
        light = cv2.resize(rng.uniform(0.45, 1.35, (cells, cells)).astype(np.float32), (size, size),
                           interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            light = np.where(light > 0.9, 1.0, rng.uniform(0.35, 0.8)).astype(np.float32)
        return cv2.multiply(picture, cv2.merge([light] * 3), dtype=cv2.CV_8U)

    def _patches(self, rng, picture, truth):
        """Covers rectangles: objects must be known by parts."""
        size = picture.shape[0]
        covered = np.zeros(len(truth.label), np.float32)
        for _ in range(rng.integers(1, 7)):
            w, h = (np.exp(rng.uniform(math.log(0.03), math.log(0.25), 2)) * size).astype(int) + 1
            x, y = int(rng.integers(0, size - w)), int(rng.integers(0, size - h))
            into = picture[y:y + h, x:x + w]
            kind = rng.random()
            if kind < 0.4:
                into[:] = rng.integers(0, 256, 3)
            elif kind < 0.7:
                into[:] = self.textures[rng.integers(len(self.textures))][:h, :w]
            else:  # another place of the picture
                ox, oy = int(rng.integers(0, size - w)), int(rng.integers(0, size - h))
                if truth_free(truth, ox, oy, w, h):
                    into[:] = picture[oy:oy + h, ox:ox + w].copy()
                else:
                    into[:] = into.mean((0, 1))
            box = truth.box
            inter = (np.minimum(box[:, 2], x + w) - np.maximum(box[:, 0], x)).clip(0) \
                * (np.minimum(box[:, 3], y + h) - np.maximum(box[:, 1], y)).clip(0)
            covered += inter / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).clip(1e-6)
        return picture, Truth(truth.box, truth.label, truth.ignore | (covered > COVERED_MAX))


def truth_free(truth, x, y, w, h):
    """Whether no object reaches into that rectangle: copying one would make an unlabelled twin."""
    box = truth.box
    return not ((box[:, 0] < x + w) & (box[:, 2] > x) & (box[:, 1] < y + h) & (box[:, 3] > y)).any()


def _curve(rng, strength):
    """Gamma and contrast about a middle, as a table 0..1."""
    gamma = math.exp(rng.normal(0, strength * 1.5))
    table = _LEVEL ** gamma
    middle = rng.uniform(0.3, 0.6)
    return middle + (table - middle) * math.exp(rng.normal(0, strength))


def _colours(rng, picture):
    """One 3x3 matrix (saturation, hue, mixed channels, grey) and one table a channel (exposure, gamma, white balance)."""
    matrix = np.eye(3)
    kind = rng.random()
    saturation = 0.0 if kind < 0.08 else math.exp(rng.normal(-0.1, 0.5))
    matrix = saturation * matrix + (1 - saturation) * np.tile(GREY, (3, 1))
    if rng.random() < 0.5:
        matrix = _hue(rng.normal(0, 0.35)) @ matrix
    if kind > 0.9:
        matrix = matrix[rng.permutation(3)]
    elif kind > 0.8:
        matrix = (np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))) @ matrix
    picture = cv2.transform(picture, matrix)
    # A camera exposes for something: pictures in which all is white or black teach nothing.
    mean = max(sum(cv2.mean(picture)) / 3 / 255, 0.02)
    gain = math.exp(rng.normal(0, 0.3))
    gain = min(max(gain, min(0.15 / mean, 1.0)), max(0.7 / mean, 1.0)) * np.exp(rng.normal(0, 0.08, 3))
    lift = rng.normal(0, 0.05) + (rng.uniform(0, 0.4) if rng.random() < 0.1 else 0)  # haze lifts the dark
    curve = _curve(rng, 0.25)[:, None] * gain
    table = lift + curve * (1 - max(lift, 0))
    if rng.random() < 0.04:  # inverted: shape alone has to do
        table = 1 - table
    return cv2.LUT(picture, (table * 255).clip(0, 255).astype(np.uint8).reshape(1, 256, 3))


def _hue(angle):
    """Turns colours about the grey axis."""
    c, s = math.cos(angle), math.sin(angle)
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return c * np.eye(3) + s * cross + (1 - c) / 3


def _blur(rng, picture):
    kind = rng.random()
    if kind < 0.4:
        return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6))
    if kind < 0.6:  # motion, as of a vehicle or a pole in the wind
        length = int(rng.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        if rng.random() < 0.7:
            kernel[length // 2] = 1 / length
        else:
            np.fill_diagonal(kernel, 1 / length)
        return cv2.filter2D(picture, -1, kernel)
    h, w = picture.shape[:2]  # a worse camera
    factor = rng.uniform(0.45, 0.9)
    small = cv2.resize(picture, (max(int(w * factor), 1), max(int(h * factor), 1)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST)


def _texture(rng):
    """Coloured noise of several sizes, or stripes."""
    out = np.zeros((640, 640, 3), np.float32)
    for octave in range(2, 8):
        cells = 2 ** octave
        layer = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        out += cv2.resize(layer, (640, 640), interpolation=cv2.INTER_LINEAR) * rng.uniform(0, 1) / octave
    if rng.random() < 0.4:
        angle, period = rng.uniform(0, math.pi), rng.uniform(4, 60)
        y, x = np.mgrid[:640, :640].astype(np.float32)
        wave = np.sign(np.sin((x * math.cos(angle) + y * math.sin(angle)) / period * 2 * math.pi))
        out += wave[..., None] * rng.uniform(0.2, 1)
    out = out * rng.uniform(30, 70) + rng.uniform(60, 190, 3)
    return out.clip(0, 255).astype(np.uint8)
