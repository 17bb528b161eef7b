"""File names, ranges and missing folders are checked before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CASES = {
    "image x --out no/such/folder/x.png": "--out: the folder no/such/folder does not exist",
    "image x --out x.gif": "--out: got x.gif, expected .png",
    "image x --out folder": "--out: got the folder folder",
    "image x --out text.png --steps 0": "--steps: got 0",
    "image x --guidance-scale nan": "--guidance-scale",
    "image x --size 0": "--size",
    "image x --init-image missing.png": "--init-image: missing.png cannot be read",
    "image x --init-image text.png --out y.png": "--init-image: text.png",
    "image x --init-image good.png --mask missing.png": "--mask: missing.png",
    "image x --model missing": "model: got 'missing', expected a model folder",
    "image x --model audio.instruments": "a model for audio.text_to_audio",
    "image x --guide-model missing": "got 'missing'",
    "image x --lora missing.safetensors": "lora: got missing.safetensors",
    "image x --lora x:y": "--lora: got weight 'y'",
    "image --prompts missing.txt --out made": "cannot read missing.txt",
    "image --prompts empty.txt --out made": "empty.txt: got no line",
    "class 3 --out no/such/folder/x.png": "--out: the folder no/such/folder does not exist",
    "audio x --out no/such/folder/x.wav": "--out: the folder no/such/folder does not exist",
    "audio x --out x.txt": "--out: got x.txt",
    "audio x --init-audio missing.wav": "--init-audio: missing.wav cannot be read",
    "audio x --init-audio text.png": "--init-audio",
    "audio x --duration -1": "--duration",
    "audio x --spectrogram no/such/x.png": "--spectrogram: the folder no/such does not exist",
    "points x --out no/such/folder/x.ply": "--out: the folder no/such/folder does not exist",
    "points x --count 0": "--count: got 0",
    "points x --partial missing.ply": "--partial",
    "views x --out no/such/folder/x.png": "--out: the folder no/such/folder does not exist",
    "views --image missing.png": "--image",
    "views x --fov 400": "fov",
    "cameras --views 0": "views",
    "cameras --fov 180": "--fov: got 180",
    "cameras --read missing.json": "missing.json",
    "cameras --out no/such/x.json": "--out: got no/such/x.json",
    "cameras --read pipe.json": "pipe.json: cannot be read (it is a pipe, expected a plain file)",
    "cameras --read deep.json": "deep.json",
    "cameras --read deep.json --convention opencv": "deep.json",
    "cameras --read lens.json": "camera_angle_x of 9 radians",
    "cameras --read huge.json": "orthonormal",
    "cameras --radius 1e308": "radius: got 1e+308",
    "cameras --draw loop.png": "--draw: cannot write loop.png (Too many levels of symbolic links)",
    "cameras --out pipe.json": "--out: cannot write pipe.json (it is a pipe",
    "cameras --out lens.json": "lens.json, which exists already",
    "views x --cameras pipe.json": "it is a pipe, expected a plain file",
    "plot piped": "it is a pipe, expected a plain file",
    "plot plotted --out good.png": "good.png, which exists already",
    "render missing.obj --out made": "meshes: got missing.obj",
    "render --family chair --out text.png/x": "--out",
    "classify missing.png": "image: got missing.png, which does not exist",
    "classify text.png": "image: got text.png, expected a usable image",
    "classify folder": "without images",
    "classify good.png --model missing": "model: got 'missing'",
    "classify good.png --explain text.png": "--explain",
    "spectrogram missing.wav": "missing.wav",
    "buckets missing.yaml": "cannot read missing.yaml",
    "train missing.yaml --out run": "cannot read missing.yaml",
    "train image.tiny --out text.png": "out: got the file text.png",
    "train image.tiny --out text.png/run": "below the file",
    "train image.tiny --out run --set training.steps=0": "training.steps",
    "train image.tiny --out run --set dataset.folder=missing": "no folder 'missing'",
    "train image.tiny --out folder --resume": "no checkpoint",
    "train image.tiny --out run --set dataset.folder=folder --init missing": "got 'missing'",
    "check missing.yaml": "cannot read missing.yaml",
    "check image.tiny --set training.lr=-1": "training.lr",
    "check image.tiny --set dataset.folder=missing": "no folder 'missing'",
    "evaluate missing": "model: got 'missing'",
    "evaluate image.emoji --dataset missing": "--dataset: got 'missing'",
    "evaluate image.emoji --dataset missing.yaml": "missing.yaml",
    "evaluate image.emoji --metrics missing": "missing",
    "evaluate image.emoji --out text.png": "--out: got the file text.png",
    "evaluate image.emoji --resume": "--resume: got it without --out",
    "evaluate image.emoji --samples 0": "samples",
    "evaluate image.emoji --lora missing": "lora: got missing",
    "evaluate image.emoji --param size": "--param: got 'size'",
    "convert missing out": "model: got 'missing'",
    "convert image.emoji text.png": "destination: got text.png",
    "convert image.emoji folder/..": "destination",
    "convert missing.safetensors out": "lora: got missing.safetensors",
    "convert good.png out": "got the file good.png",
    "models missing": "model: got 'missing'",
    "schedule --steps 0": "steps",
    "schedule fit missing": "model: got 'missing'",
    "schedule fit image.emoji --requests missing.txt": "cannot read missing.txt",
    "plot missing": "run: got missing",
    "recipe missing.yaml": "cannot read missing.yaml",
    "recipe image.tiny --folder missing": "--folder: got 'missing'",
}
PROGRAM = """
import contextlib, io, json, sys
from lumina_core.cli.main import run
for line in sys.stdin.read().splitlines():
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        status = run(line.split())
    slow = sorted({"torch", "scipy", "torchaudio"} & set(sys.modules))
    print(json.dumps([status, stderr.getvalue(), slow]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Status, error and slow modules of all cases, in one process: what one imports, the next ones have."""
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "folder").mkdir()
    (folder / "folder" / "note.md").write_text("no picture")
    (folder / "text.png").write_text("no picture either")
    (folder / "empty.txt").write_text("")
    from PIL import Image

    Image.new("RGB", (16, 16)).save(folder / "good.png")
    os.mkfifo(folder / "pipe.json")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "deep.json").write_text("[" * 100_000)
    for name, lens, scale in (("lens", 9, 1), ("huge", 0.7, 1e308)):
        pose = [[scale * (row == column) for column in range(4)] for row in range(4)]
        content = {"camera_angle_x": lens, "frames": [{"transform_matrix": pose}]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "piped").mkdir()
    os.mkfifo(folder / "piped" / "metrics.csv")
    (folder / "plotted").mkdir()
    (folder / "plotted" / "metrics.csv").write_text("step,loss\n1,2\n")
    before = sorted(folder.rglob("*"))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input="\n".join(CASES), capture_output=True, text=True, cwd=folder, timeout=120
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(CASES), result.stderr
    assert sorted(folder.rglob("*")) == before
    return dict(zip(CASES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("command", CASES)
def test_an_error_that_needs_no_torch_comes_without_it(answers, command):
    status, error, slow_modules = answers[command]
    assert status in (1, 2) and error.count("\n") == 1 and CASES[command] in error and "unexpected" not in error
    assert not slow_modules
