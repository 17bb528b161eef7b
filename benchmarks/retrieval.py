"""Does a picture show what its words say: made from names, is the nearest real emoji among all the right one?

The distance is the squared one between 16x16 thumbnails (mean over 2x2 blocks at 32 px). Names are drawn at random
with a fixed seed. Prints a table, writes JSON (`--json FILE`) and a sheet of made pictures beside real ones
(`--sheet FILE`).

    python benchmarks/retrieval.py [--model DIR] [--language en] [--count 500] [--split base|all|left_out]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lumina_core.session import Answer, Session, open_model
from lumina_image.emoji import EmojiDataset
from lumina_image.nearest import rank, thumbnails, top
from lumina_image.task import to_picture

BATCH = 50


def main() -> None:
    asked = _arguments()
    data = EmojiDataset(EmojiDataset.Config(split="all"))
    places = _drawn(data, asked.split, asked.count, asked.seed)
    session = open_model(asked.model)
    began = time.perf_counter()
    answers = _made(session, [str(data.captions(place)[asked.language]["name"]) for place in places], asked)
    seconds = time.perf_counter() - began
    made = np.stack([np.asarray(to_picture(answer.data)) for answer in answers])
    real = data.pictures()
    ranks = rank(thumbnails(made), np.asarray(places), thumbnails(real))
    record = {
        "language": asked.language, "split": asked.split, "count": len(places), "among": len(real),
        "top1": round(float(top(ranks, 1)), 4), "top5": round(float(top(ranks, 5)), 4), "seconds": round(seconds, 1),
        "evaluations": answers[0].record["evaluations"], **answers[0].record["settings"],
    }  # fmt: skip
    print(json.dumps(record))
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.sheet:
        _sheet(made[:64], real[places[:64]]).save(asked.sheet)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder; the built-in model where left out")
    parser.add_argument("--language", default="en")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--split", choices=("base", "all", "left_out"), default="base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solver")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    return parser.parse_args()


def _drawn(data: EmojiDataset, split: str, count: int, seed: int) -> list[int]:
    records = list(data.records())
    fits = {
        "all": lambda record: True,
        "base": lambda record: record["code"] == record["base"],
        "left_out": lambda record: record["left_out"],
    }[split]
    places = [place for place, record in enumerate(records) if fits(record)]
    return random.Random(seed).sample(places, min(count, len(places)))


def _made(session: Session, names: list[str], asked: argparse.Namespace) -> list[Answer]:
    settings = {key: getattr(asked, key) for key in ("steps", "solver", "guidance") if getattr(asked, key) is not None}
    requests = [session.request(prompt=name, seed=1000 + place, **settings) for place, name in enumerate(names)]
    return [
        answer
        for start in range(0, len(requests), BATCH)
        for answer in session.ask_all(requests[start : start + BATCH])
    ]


def _sheet(made: np.ndarray, real: np.ndarray) -> Image.Image:
    """Pairs, made on the left and real on the right, eight pairs a row."""
    pairs = np.concatenate([made, real], axis=2)
    rows = [np.concatenate(list(pairs[start : start + 8]), axis=1) for start in range(0, len(pairs) // 8 * 8, 8)]
    return Image.fromarray(np.concatenate(rows, axis=0))


if __name__ == "__main__":
    main()
