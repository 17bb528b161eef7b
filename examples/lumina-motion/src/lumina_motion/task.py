"""Task: generate a motion from a text, as a table of positions (CSV); several motions are drawn in a grid (SVG)."""

import json

from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.io import atomic_file
from lumina_core.protocols import GenerationTask
from lumina_core.request import Request


class MotionRequest(Request):
    words: str = Field(min_length=1, description="how to move: fast circle")
    moments: int = Field(64, ge=1, le=4096, description="length of the motion")


class Move(GenerationTask):
    Request, Config, data_field, suffixes = MotionRequest, Settings, "motion", (".csv",)

    def __init__(self, config): ...

    def size(self, request):
        return (request.moments,)

    def conditions(self, request):
        return {"words": [request.words]}

    def encode(self, item, format, metadata):
        rows = [f"{moment},{x:.5f},{y:.5f}\n" for moment, (x, y) in enumerate(item.T.tolist())]
        return f"# {json.dumps(metadata)}\nmoment,x,y\n{''.join(rows)}".encode()

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"{name}.svg") as partial:
            partial.write_text(drawing(items), encoding="utf-8")
        return folder / f"{name}.svg"


def drawing(items):
    """Draw curves (2, moments) in a row, each in a box of 2.4 by 2.4."""
    curves = [" ".join(f"{x + 2.4 * k:.3f},{-y:.3f}" for x, y in item.T.tolist()) for k, item in enumerate(items)]
    lines = "".join(f'<polyline points="{curve}" fill="none" stroke="black" stroke-width="0.03"/>' for curve in curves)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1.2 -1.2 {2.4 * len(items)} 2.4">{lines}</svg>'
