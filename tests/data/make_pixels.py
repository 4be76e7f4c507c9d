#!/usr/bin/env python3
"""Makes tests/data/pixels: small JPEGs of every subsampling, and what libjpeg-turbo and OpenCV make of pixels.

  pip install opencv-python-headless numpy pillow        (made with OpenCV 5.0.0, Pillow's libjpeg-turbo)
  tests/data/make_pixels.py

golden.txt:  jpeg NAME WIDTH HEIGHT HASH     the RGB pixels that cv2.imread gives
             resize W H MW MH HASH           the letterboxed RGB pixels (fill 114) of a W x H picture by formula
HASH is FNV-1a, 64 bit, over the bytes in rows of R, G, B.
"""
import os
import cv2, numpy as np
from PIL import Image

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pixels")


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def letterbox(image, height, width):
    h, w = image.shape[:2]
    r = min(height / h, width / w)
    nh, nw = max(1, round(h * r)), max(1, round(w * r))
    top, left = round((height - nh) / 2 - 0.1), round((width - nw) / 2 - 0.1)
    canvas = np.full((height, width, 3), 114, np.uint8)
    canvas[top:top + nh, left:left + nw] = cv2.resize(image, (nw, nh), interpolation=cv2.INTER_LINEAR)
    return canvas


def main():
    os.makedirs(FOLDER, exist_ok=True)
    lines = []
    rng = np.random.default_rng(7)
    for name, subsampling, (w, h) in [("444.jpg", "4:4:4", (33, 18)), ("422.jpg", "4:2:2", (37, 21)), ("420.jpg", "4:2:0", (45, 27)),
                                      ("420-even.jpg", "4:2:0", (48, 32)), ("411.jpg", "4:1:1", (52, 20)), ("440.jpg", "4:4:0", (36, 26))]:
        # Colour ramps with noise: every step of the arithmetic gets work, clipping too.
        y, x = np.mgrid[0:h, 0:w]
        base = np.stack([x * 255 / w, y * 255 / h, 255 - x * 255 / w], -1)
        image = np.clip(base + rng.normal(0, 40, (h, w, 3)), 0, 255).astype(np.uint8)
        path = os.path.join(FOLDER, name)
        if subsampling in ("4:4:0", "4:1:1"):
            factor = {"4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411}[subsampling]
            cv2.imwrite(path, image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])
        else:
            Image.fromarray(image).save(path, quality=90, subsampling=subsampling)
        lines.append(f"jpeg {name} {w} {h} {fnv(cv2.imread(path)[:, :, ::-1].tobytes())}")
    for w, h, mw, mh in [(64, 36, 32, 32), (100, 77, 64, 64), (97, 131, 64, 96), (40, 24, 96, 64), (17, 31, 96, 96), (128, 20, 64, 32), (16, 16, 32, 32), (333, 250, 128, 96)]:
        index = np.arange(3 * w * h, dtype=np.int64)
        image = ((index * index * 31 // 7 + index // 5) % 256).astype(np.uint8).reshape(h, w, 3)
        lines.append(f"resize {w} {h} {mw} {mh} {fnv(letterbox(image, mh, mw).tobytes())}")
    with open(os.path.join(FOLDER, "golden.txt"), "w") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
