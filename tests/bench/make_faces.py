"""Writes a folder of random JPEG files with a list, to time training and loading on."""

import argparse
import pathlib

import numpy as np
from PIL import Image

p = argparse.ArgumentParser()
p.add_argument("out", type=pathlib.Path)
p.add_argument("--identities", type=int, default=1000)
p.add_argument("--pictures", type=int, default=4)
p.add_argument("--size", type=int, default=112)
a = p.parse_args()
rng = np.random.default_rng(0)
(a.out / "images").mkdir(parents=True, exist_ok=True)
lines = []
for i in range(a.identities):
    for k in range(a.pictures):
        # Smooth noise compresses about as photographs of faces do.
        small = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((a.size, a.size), Image.BICUBIC)
        noise = rng.normal(0, 6, (a.size, a.size, 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
        name = f"images/{i:05}_{k}.jpg"
        picture.save(a.out / name, quality=95)
        lines.append(f"{i} {name} {rng.integers(1, 90)} {rng.integers(2)}")
(a.out / "list.txt").write_text("\n".join(lines) + "\n")
