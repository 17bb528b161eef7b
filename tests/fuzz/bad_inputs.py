"""Seeded generator of bad inputs of every command: arguments, recipes, model folders, media files, data sets, outputs.

A case is made in an empty folder. It must be refused, except where `may_succeed` says that a damaged file may still be
usable; then the result must be whole.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e400",
    "-1",
    "1" + "0" * 30,
    "0x10",
    "1_0",
    "1,5",
    "",
    " ",
    "٣",
    "--1",
    "1e",
    "NaN",
]
WORDS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "~",
    "\\",
    "\x1b[2J",
    "\u202egnp",
    "a\nb",
    "a" * 5000,
    "💥" * 400,
    "\udcff",
    "%s%n",
    "{}",
    "'",
    "null",
]
INT_OPTIONS = {
    "image": ["steps", "nfe", "feather", "max-token-ratio", "preview"],
    "audio": ["steps", "nfe", "max-token-ratio", "preview"],
}
FLOAT_OPTIONS = {
    "image": ["guidance-scale", "guidance-rescale"],
    "audio": ["guidance-scale", "guidance-rescale", "duration", "seconds"],
}
NAME_OPTIONS = [
    "solver",
    "schedule",
    "guidance",
    "rope-scaling",
    "context-drop",
    "block-cache",
    "cfg-batching",
    "dtype",
    "device",
    "text-device",
]
BAD_NAMES = [
    "nope",
    "euler:",
    "euler:a=1",
    ":",
    "core.",
    ".",
    "core.euler.euler",
    "../euler",
    "euler:step=1e999",
    "x" * 3000,
    "\x00x"[1:] * 50,
]
SUFFIX = {"image": ".png", "audio": ".wav"}
INPUT_OPTION = {"image": "init-image", "audio": "init-audio"}


@dataclass(frozen=True)
class Case:
    """A command in a folder: arguments with {dir} for the folder, {image} and {audio} for models of random weights."""

    kind: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path, Path], None] = lambda folder, model: None
    may_succeed: bool = False


def make_cases(seed: int, count: int) -> list[Case]:
    """Return cases of all kinds in turn; the same ones for a seed."""
    rng = random.Random(seed)
    makers = [
        bad_number,
        bad_name,
        bad_text_option,
        bad_output,
        bad_media,
        damaged_media,
        bad_prompts,
        bad_recipe_text,
        bad_setting,
        mutated_recipe,
        damaged_config,
        damaged_weights,
        damaged_weights,
        bad_model_name,
        bad_convert,
        bad_dataset,
        bad_arguments,
        bad_schedule,
        bad_evaluate,
        bad_lora,
    ]
    return [makers[index % len(makers)](rng) for index in range(count)]


def generation(rng: random.Random, *arguments: str, task: str = "", out: str = "", **options: str) -> tuple[str, ...]:
    task = task or rng.choice(["image", "audio"])
    shared = {"steps": "1", "model": f"{{{task}}}", "out": out or f"{{dir}}/out{SUFFIX[task]}", **options}
    return (task, *arguments, *(part for key, value in shared.items() for part in (f"--{key}", value)))


def task_of(rng: random.Random) -> str:
    return rng.choice(["image", "audio"])


def bad_number(rng: random.Random) -> Case:
    task = task_of(rng)
    is_int = rng.random() < 0.5
    option = rng.choice((INT_OPTIONS if is_int else FLOAT_OPTIONS)[task] + ["seed", "count"])
    if option == "feather":
        option = "steps"
    value = rng.choice([n for n in NUMBERS if n not in ("٣", "1_0")])
    if not is_int and value in ("-1",) and option not in FLOAT_OPTIONS[task]:
        value = "-1"
    arguments = [a for a in generation(rng, "cat", task=task)]
    return Case("number", (*arguments, f"--{option}={value}"))


def bad_name(rng: random.Random) -> Case:
    return Case("name", (*generation(rng, "cat"), f"--{rng.choice(NAME_OPTIONS)}={rng.choice(BAD_NAMES)}"))


def bad_text_option(rng: random.Random) -> Case:
    image = {
        "size": ["0x0", "64", "64x", "x64", "-64x64", "64x64x64", "1e9x1", "63x65", "99999999x8", "nanxnan", "64×64×"],
        "outpaint": ["1", "-1,0,0,0", "a", "1e9,0,0,0"],
        "paste-at": ["1,1", "x", "-5,-5"],
        "region": ["nothing", "0,0,0,0: a", "-1,0,8,8: a", "0,0,1e9,8: a", "0,0,8,8"],
        "region-grid": ["0x0", "1000000x1000000", "a", "-1x2", "2x2"],
        "variation-strength": ["2", "nan", "0.5"],
        "strength": ["0.5", "nan", "2"],
        "guidance-interval": ["0.8,0.1", "nan,1", "0,2", "1", "a,b"],
        "guide-model": ["nope", "/dev/zero", "{dir}", ""],
    }
    audio = {
        "inpaint": ["1-0", "nan-1", "a", "0-1"],
        "extend": ["-1", "nan", "1e308", "1"],
        "crossfade": ["-1", "nan", "1e300"],
        "scalar": ["pitch", "pitch=nan", "=1", "nope=1"],
        "guidance-interval": ["0.8,0.1", "inf,inf"],
    }
    task = task_of(rng)
    option = rng.choice(sorted(image if task == "image" else audio))
    value = rng.choice((image if task == "image" else audio)[option])
    if (task, option, value) == ("image", "size", "64"):
        value = "64x"
    return Case("text option", (*generation(rng, "cat", task=task), f"--{option}={value}"))


def bad_output(rng: random.Random) -> Case:
    task = task_of(rng)
    names = {
        "missing": "{dir}/no/such/out" + SUFFIX[task],
        "folder": "{dir}/folder" + SUFFIX[task],
        "suffix": "{dir}/out.exe",
        "pipe": "{dir}/pipe" + SUFFIX[task],
        "device": "{dir}/device" + SUFFIX[task],
        "long": "{dir}/" + "x" * 300 + SUFFIX[task],
        "locked": "/proc/out" + SUFFIX[task],
        "file as folder": "{dir}/file/out" + SUFFIX[task],
        "loop": "{dir}/loop" + SUFFIX[task],
        "dangling": "{dir}/dangling" + SUFFIX[task],
        "existing": "{dir}/old" + SUFFIX[task],
    }
    kind = rng.choice(sorted(names))

    def prepare(folder: Path, model: Path) -> None:
        (folder / f"folder{SUFFIX[task]}").mkdir()
        os.mkfifo(folder / f"pipe{SUFFIX[task]}")
        (folder / f"device{SUFFIX[task]}").symlink_to("/dev/null")
        (folder / "file").write_text("mine")
        (folder / f"old{SUFFIX[task]}").write_text("mine")
        (folder / f"loop{SUFFIX[task]}").symlink_to(folder / f"loop{SUFFIX[task]}")
        (folder / f"dangling{SUFFIX[task]}").symlink_to(folder / "no" / "such")

    return Case(f"output: {kind}", generation(rng, "cat", task=task, out=names[kind]), prepare)


def media_bytes(rng: random.Random, task: str) -> bytes:
    """A small whole file."""
    import io

    if task == "image":
        from PIL import Image

        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (rng.randrange(256), 9, 9)).save(
            stream, rng.choice(["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
        )
        return stream.getvalue()
    import numpy as np
    import soundfile

    stream = io.BytesIO()
    samples = np.sin(np.arange(4000) * 0.1).astype("float32")
    soundfile.write(stream, samples, 8000, format=rng.choice(["WAV", "FLAC", "OGG"]))
    return stream.getvalue()


def bad_media(rng: random.Random) -> Case:
    task = task_of(rng)
    whole = media_bytes(rng, task)
    content = rng.choice(
        [
            b"",
            b"\0" * 1000,
            b"GIF89a",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\xff\xff\xff\xffWAVE",
            b"<html>404</html>",
            b"PK\x03\x04",
            b"version https://git-lfs.github.com/spec/v1\n",
            whole[: rng.randrange(1, 24)],
            rng.randbytes(500),
            b"fLaC" + rng.randbytes(60),
            b"OggS" + rng.randbytes(60),
            b"BM" + rng.randbytes(60),
            b"P6 99999999 99999999 255 ",
            b"RIFF"
            + struct.pack("<I", 36)
            + b"WAVEfmt "
            + struct.pack("<IHHIIHH", 16, 1, 0, 0, 0, 0, 0)
            + b"data\0\0\0\0",
        ]
    )
    path = rng.choice(["{dir}/in", "{dir}", "/dev/zero", "{dir}/pipe", "{dir}/none", "/proc/self/mem", "{dir}/in"])

    def prepare(folder: Path, model: Path) -> None:
        (folder / "in").write_bytes(content)
        os.mkfifo(folder / "pipe")

    return Case("media", generation(rng, "cat", task=task, **{INPUT_OPTION[task]: path}), prepare)


def damaged_media(rng: random.Random) -> Case:
    task = task_of(rng)
    content = damaged(rng, media_bytes(rng, task))

    def prepare(folder: Path, model: Path) -> None:
        (folder / "in").write_bytes(content)

    arguments = generation(rng, "cat", task=task, **{INPUT_OPTION[task]: "{dir}/in"})
    return Case("damaged media", arguments, prepare, may_succeed=True)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut, overwrite or repeat a part of bytes."""
    data, start = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        del data[start:]
    elif kind == 1:
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        data[start : start + 8] = b"\xff" * 8
    else:
        data[start:start] = data[: rng.randrange(1, 200)]
    return bytes(data)


def bad_prompts(rng: random.Random) -> Case:
    content = rng.choice(
        [b"", b"\n\n \n", b"\xff\xfe\x00", b"caf\xe9", b"# only a comment\n", b"\0"[:0] + b"\xf0\x28\x8c\x28"]
    )
    path = rng.choice(["{dir}/in", "{dir}/in", "{dir}", "/dev/zero", "{dir}/pipe", "{dir}/none"])

    def prepare(folder: Path, model: Path) -> None:
        (folder / "in").write_bytes(content)
        os.mkfifo(folder / "pipe")

    task = task_of(rng)
    return Case("prompts", generation(rng, task=task, out="{dir}/many", prompts=path), prepare)


def train_or_check(rng: random.Random, recipe: str, *arguments: str) -> tuple[str, ...]:
    if rng.random() < 0.5:
        return ("check", recipe, *arguments)
    return ("train", recipe, "--out", "{dir}/run", "--device", "cpu", "--quiet", *arguments)


def bad_recipe_text(rng: random.Random) -> Case:
    depth = rng.randrange(50, 3000)
    text = rng.choice(
        [
            "",
            "5",
            "[]",
            "a: [",
            "\t",
            "a: &a [*a]",
            "x" * 2_000_000,
            "a: " + "[" * depth + "]" * depth,
            "{a: " * depth + "1" + "}" * depth,
            "task: 2020-01-01",
            "schema_version: 99",
            "schema_version: '2'",
            "lumina: 1",
            "base: it.yaml",
            "base: 5",
            "base: /dev/zero",
            "!!python/object/apply:os.system ['touch hacked']",
            "a: 1\na: 2",
            "\x00",
            "task: {type: image.text_to_image}",
            "---\na: 1\n---\nb: 2",
            "base: image.tiny\nnothing: 5",
            "base: image.tiny\ntraining: {stepz: 5}",
            "base: image.tiny\nconditioners: 7",
        ]
    )
    suffix = rng.choice([".yaml", ".json", ".yml"])

    def prepare(folder: Path, model: Path) -> None:
        (folder / f"it{suffix}").write_text(text, encoding="utf-8")

    return Case("recipe text", train_or_check(rng, f"{{dir}}/it{suffix}"), prepare)


SETTINGS = (
    "backbone.num_layers",
    "backbone.hidden_size",
    "backbone.num_heads",
    "backbone.multiple_of",
    "backbone.eps",
    "backbone.rope_theta",
    "backbone.ffn_dim_multiplier",
    "training.lr",
    "training.weight_decay",
    "training.max_norm",
    "training.ema_decay",
    "training.seed",
    "training.cond_dropout",
    "training.decay_start",
    "training.muon_lr",
    "training.global_batch_size",
    "training.gradient_accumulation_steps",
    "training.num_workers",
    "training.betas",
    "training.lr_overrides",
    "training.freeze",
    "training.sample_requests",
    "training.mixed_precision",
    "training.optimizer",
    "sampling.steps",
    "sampling.solver",
    "sampling.schedule",
    "sampling.guidance",
    "sampling.guidance_scale",
    "sampling.guidance_interval",
    "tokenizer",
    "tokenizer.type",
    "autoencoder.type",
    "backbone.type",
    "head.type",
    "objective.type",
    "objective.path",
    "conditioners",
    "conditioners.0.field",
    "conditioners.0.type",
    "conditioners.0.hidden_size",
    "conditioners.9",
    "dataset",
    "dataset.type",
    "dataset.folder",
    "task.type",
    "task",
)
VALUES = [
    "nan",
    ".nan",
    ".inf",
    "-.inf",
    "1e999",
    "-7",
    "[]x",
    "{a: }",
    "[.nan]",
    "!!binary x",
    "[[[[]]]]",
    "{type: }",
    "{type: nope}",
    "{type: ../../x}",
    "2020-01-01",
    "'\\0'",
    "1" + "0" * 40,
    "true:",
    "{type: core.euler}",
    "[5, 5, 5, 5]",
    "{x: {y: {z: 1}}}",
]


def bad_setting(rng: random.Random) -> Case:
    recipe = rng.choice(["image.tiny", "audio.tiny"])
    setting = f"{rng.choice(SETTINGS)}={rng.choice(VALUES)}"
    if rng.random() < 0.1:
        setting = rng.choice(["=", "a", ".", "a..b=1", "training.=1", "training.steps", "0=1", "training.steps.0=1"])
    return Case("setting", train_or_check(rng, recipe, "--set", setting))


def mutated_recipe(rng: random.Random) -> Case:
    recipe, key = (
        rng.choice(["image.tiny", "audio.tiny"]),
        rng.choice(["task", "tokenizer", "autoencoder", "backbone", "head", "objective"]),
    )
    kind = rng.choice(["remove", "number", "list", "other", "unknown key", "twice"])

    def prepare(folder: Path, model: Path) -> None:
        from lumina_core.recipe import Recipe

        values = Recipe.load(recipe).to_dict()
        if kind == "remove":
            del values[key]
        elif kind == "number":
            values[key] = 7
        elif kind == "list":
            values[key] = [values[key]]
        elif kind == "other":
            values[key] = {"type": "core.no_such"}
        elif kind == "unknown key":
            values[key]["no_such_key"] = 1
        else:
            values["conditioners"] = values["conditioners"] * 2
        (folder / "it.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    return Case(f"mutated recipe: {kind}", train_or_check(rng, "{dir}/it.yaml"), prepare)


def copy_model(folder: Path, model: Path) -> Path:
    copy = folder / "model"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def with_model(rng: random.Random, task: str) -> tuple[str, ...]:
    return rng.choice(
        [
            generation(rng, "cat", task=task, model="{dir}/model"),
            ("models", "{dir}/model"),
            ("convert", "{dir}/model", "{dir}/new", "--dtype", "bfloat16", "--format", "lumina"),
            ("schedule", "fit", "{dir}/model", "--by", "sharpness", "--count", "1", "--dry-run"),
        ]
    )


def damaged_config(rng: random.Random) -> Case:
    task = task_of(rng)
    kind = rng.choice(
        ["cut", "text", "version", "no recipe", "recipe", "type", "deep", "list", "huge", "empty", "control"]
    )

    def prepare(folder: Path, model: Path) -> None:
        path = copy_model(folder, model) / "config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        if kind == "version":
            content["schema_version"] = 99
        elif kind == "no recipe":
            del content["recipe"]
        elif kind == "recipe":
            content["recipe"] = [1]
        elif kind == "type":
            content["recipe"]["backbone"]["type"] = "evil\x1b[2J.backbone"
        elif kind == "control":
            content["recipe"]["task"] = {"type": "\u202etask\x07"}
        text = {
            "cut": path.read_text(encoding="utf-8")[:40],
            "text": "not json",
            "deep": "[" * 90000,
            "list": "[1, 2]",
            "empty": "",
            "huge": json.dumps({"a": "x" * 2_000_000}),
        }.get(kind, json.dumps(content))
        path.write_text(text, encoding="utf-8")

    arguments = with_model(rng, task)
    # `models` describes a recipe whose components are not installed
    return Case(f"config: {kind}", arguments, prepare, may_succeed=kind in ("type", "control") and arguments[0] != task)


def damaged_weights(rng: random.Random) -> Case:
    task = task_of(rng)
    kind = rng.choice(
        ["cut", "header", "nan", "shape", "missing", "surplus", "empty", "pickle", "zeros", "pipe", "offset"]
    )
    position = rng.random()

    def prepare(folder: Path, model: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        path = copy_model(folder, model) / "model.safetensors"
        content = path.read_bytes()
        if kind in ("nan", "shape", "missing", "surplus"):
            weights = load_file(path)
            names = [
                name for name in sorted(weights) if weights[name].is_floating_point() and weights[name].numel() > 1
            ]
            name = names[int(position * len(names))]
            if kind == "nan":
                weights[name].view(-1)[0] = float("nan")
            elif kind == "shape":
                weights[name] = torch.zeros(3, 5)
            elif kind == "missing":
                del weights[name]
            else:
                weights["backbone.more"] = torch.zeros(2)
            save_file(weights, path)
            return
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
            return
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length]
        path.write_bytes(
            {
                "cut": content[: int(position * len(content))],
                "header": b"\xff" * 8 + content[8:],
                "empty": b"",
                "pickle": b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.",
                "zeros": bytes(len(content)),
                "offset": content[:8]
                + re.sub(rb'("data_offsets": *\[)0,', rb"\g<1>1,", header, count=1)
                + content[8 + length :],
            }[kind]
        )

    arguments = with_model(rng, task)
    # without reading weights, a plan, a description and a dry run may succeed
    return Case(f"weights: {kind}", arguments, prepare, may_succeed=arguments[0] in ("models", "schedule"))


def bad_model_name(rng: random.Random) -> Case:
    name = rng.choice(
        [*WORDS, "nope", "image.nope", "{dir}", "/dev/zero", "{dir}/none", "http://example.com/x", "x" * 300]
    )
    task = task_of(rng)
    return Case(
        "model name", rng.choice([generation(rng, "cat", task=task, model=name or "''"), ("models", name or "''")])
    )


def bad_convert(rng: random.Random) -> Case:
    kind = rng.choice(
        ["same", "inside", "around", "file", "pipe", "existing", "format", "native", "secret", "shard", "no source"]
    )
    arguments = {
        "same": ("{dir}/model", "{dir}/model", "--overwrite"),
        "inside": ("{dir}/model", "{dir}/model/new"),
        "around": ("{dir}/model", "{dir}"),
        "file": ("{dir}/model", "{dir}/file", "--overwrite"),
        "pipe": ("{dir}/model", "{dir}/pipe", "--overwrite"),
        "existing": ("{dir}/model", "{dir}/full", "--format", "lumina"),
        "format": ("{dir}/model", "{dir}/new", "--format", "nope"),
        "native": ("{dir}/model", "{dir}/new"),
        "secret": ("{dir}/model", "{dir}/new", "--format", "image.alpha_vllm"),
        "shard": ("{dir}/model", "{dir}/new", "--max-shard-size", "0"),
        "no source": ("{dir}/none", "{dir}/new"),
    }[kind]

    def prepare(folder: Path, model: Path) -> None:
        copy_model(folder, model)
        (folder / "full").mkdir()
        for path in (folder / "file", folder / "full" / "mine"):
            path.write_text("mine")
        os.mkfifo(folder / "pipe")

    return Case(f"convert: {kind}", ("convert", *arguments), prepare)


def bad_dataset(rng: random.Random) -> Case:
    kind = rng.choice(["empty", "text", "damaged", "missing", "file", "pipe", "binary table", "zero"])
    recipe, component = rng.choice(
        [("image.tiny", "image.folder"), ("audio.tiny", "audio.folder"), ("image.tiny", "image.tar")]
    )

    def prepare(folder: Path, model: Path) -> None:
        data = folder / "data"
        data.mkdir()
        if kind == "text":
            (data / "a.txt").write_text("a cat")
        elif kind == "damaged":
            (data / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99)
            (data / "a.wav").write_bytes(b"RIFF....WAVE")
        elif kind == "pipe":
            os.mkfifo(data / "a.png")
            os.mkfifo(data / "a.wav")
        elif kind == "binary table":
            (data / "captions.csv").write_bytes(os.urandom(3000))
        elif kind == "zero":
            (data / "a.tar").symlink_to("/dev/zero")
        elif kind == "file":
            (folder / "plain").write_text("mine")

    place = {"missing": "{dir}/none", "file": "{dir}/plain"}.get(kind, "{dir}/data")
    return Case(
        f"data set: {kind}",
        train_or_check(rng, recipe, "--set", f"dataset={{{{type: {component}, folder: '{place}'}}}}"),
        prepare,
    )


def bad_arguments(rng: random.Random) -> Case:
    arguments = rng.choice(
        [
            ("imgae", "cat"),
            ("image",),
            ("image", "--nope"),
            ("train",),
            ("train", "image.tiny"),
            ("convert",),
            ("image", "a", "b", "--out", "{dir}/x.png"),
            ("schedule", "nope"),
            ("models", "--nope"),
            ("plugins", "nope"),
            ("--nope",),
            ("evaluate", "a", "b"),
            ("check", ""),
            ("check", "image.tyni"),
            ("train", "image.tiny", "--out", "{dir}/run", "--resume"),
            ("train", "image.tiny", "--out", "{dir}/run", "--device", "gpu"),
            ("train", "image.tiny", "--out", "/dev/null"),
            ("train", "image.tiny", "--out", "{dir}/run", "--init", "{dir}/none"),
            ("", ""),
            ("image", "\x1b[31m", "--model", "\x1b[2J", "--out", "{dir}/x.png"),
            ("train", "image.tiny", "--out", ""),
            ("spectrogram", "{dir}/none.wav"),
            ("buckets", "nope"),
        ]
    )
    return Case("arguments", arguments)


def bad_schedule(rng: random.Random) -> Case:
    schedule = rng.choice(
        [
            "nope",
            "shift:shift=nan",
            "custom:values=[1,0]",
            "custom:values=[]",
            "custom:values=[0,nan,1]",
            "sigmoid:beta=1e999",
            "custom",
            ":",
            "shift:x=1",
            "fitted",
            "shift:shift=-1",
        ]
    )
    return Case(
        "schedule", rng.choice([("schedule", "--schedule", schedule), generation(rng, "cat", schedule=schedule)])
    )


def bad_evaluate(rng: random.Random) -> Case:
    more = rng.choice(
        [
            ("--samples", "0"),
            ("--samples", "-5"),
            ("--metrics", "nope"),
            ("--dataset", "nope"),
            ("--split", "nope"),
            ("--param", "a"),
            ("--param", "size=0x0"),
            ("--set", "a=1"),
            ("--device", "cpu:7"),
            ("--out", "{dir}/file"),
            ("--batch-size", "0"),
            ("--seed", "-1"),
            ("--languages", "xx"),
            ("--guidance-scale", "nan"),
            ("--resume",),
            ("--dtype", "float8"),
        ]
    )

    def prepare(folder: Path, model: Path) -> None:
        (folder / "file").write_text("mine")

    return Case("evaluate", ("evaluate", "{image}", *more), prepare)


def bad_lora(rng: random.Random) -> Case:
    content = rng.choice([b"", b"half", b"\x80\x04.", rng.randbytes(200), struct.pack("<Q", 2) + b"{}"])
    lora = rng.choice(
        [
            "{dir}/in.safetensors",
            "{dir}/none",
            "{dir}",
            "{dir}/in.safetensors:nan",
            "{dir}/in.safetensors:x",
            ":",
            "/dev/zero",
            "{dir}/pipe",
        ]
    )

    def prepare(folder: Path, model: Path) -> None:
        (folder / "in.safetensors").write_bytes(content)
        os.mkfifo(folder / "pipe")

    return Case("lora", generation(rng, "cat", lora=lora), prepare)
