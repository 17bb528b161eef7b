"""Whole guided sampling beside diffusers' LuminaPipeline: same folder, words, noise and threads, runs in turn.

    python benchmarks/sampling_speed.py FOLDER [--quick] [--threads N] [--json FILE] [--plot FILE]

FOLDER is a small pipeline as diffusers saves it (`tests/tiny_pipeline`). It is timed as it is, and once more with a
transformer of random weights of 24 layers, 512 wide, in its place, made for the occasion. From words to a decoded
picture; both ask their network equally often, which is looked at. Each round times one run of each, and the ratio is
taken within the round; reported are medians, the same in seconds of the processor, the largest difference of the
pictures, and what each needs in memory beyond its weights, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from memory import Watch
from torch import Tensor
from turns import compared, drawn, in_turn, options, set_threads, written

PROMPT, GUIDANCE, STRIDE = "a photo of a red cat", 4.0, 8
LAYERS, WIDTH = 24, 512
SIDES = {"as it is": (64,), "24 layers": (256, 512)}
Call = Callable[[], Tensor]


def deep(folder: Path, into: Path) -> Path:
    """A copy of the folder with a deep transformer of random weights."""
    from diffusers import LuminaNextDiT2DModel

    shutil.copytree(folder, into)
    config = json.loads((into / "transformer" / "config.json").read_text())
    torch.manual_seed(0)
    model = LuminaNextDiT2DModel(
        sample_size=config["sample_size"], patch_size=2, in_channels=config["in_channels"], hidden_size=WIDTH,
        num_layers=LAYERS, num_attention_heads=8, num_kv_heads=4, multiple_of=256, norm_eps=1e-5, learn_sigma=True,
        qk_norm=True, cross_attention_dim=config["cross_attention_dim"],
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif not name.endswith("weight"):
                parameter.normal_(std=0.2)
        for layer in model.layers:  # its queries are stored twice and must be the same
            layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
            layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    model.save_pretrained(into / "transformer")
    return into


def noise(side: int, channels: int) -> Tensor:
    return torch.randn(1, channels, side // STRIDE, side // STRIDE, generator=torch.Generator().manual_seed(1))


def their_call(folder: Path, side: int, steps: int) -> tuple[Call, list[int]]:
    from diffusers import LuminaPipeline

    line = LuminaPipeline.from_pretrained(folder)
    line.set_progress_bar_config(disable=True)
    args = [0]
    line.transformer.register_forward_hook(lambda *_: args.__setitem__(0, args[0] + 1))
    latents = noise(side, line.transformer.config.in_channels)

    def call() -> Tensor:
        args[0] = 0
        answer = line(
            PROMPT, negative_prompt="", height=side, width=side, num_inference_steps=steps, guidance_scale=GUIDANCE,
            latents=latents.clone(), output_type="pt", clean_caption=False,
        )  # fmt: skip
        picture: Tensor = answer.images[0] * 2 - 1
        return picture

    return call, args


def our_call(folder: Path, side: int, steps: int) -> tuple[Call, list[int]]:
    from lumina_core.sampling.inputs import PrecomputedInputs
    from lumina_core.sampling.pipeline import Pipeline

    session, args = Pipeline.from_pretrained(folder), [0]
    latents = noise(side, session.model.autoencoder.channels)

    def call() -> Tensor:
        answer = session(
            inputs=PrecomputedInputs(noise=latents),
            prompt=PROMPT,
            size=(side, side),
            steps=steps,
            guidance_scale=GUIDANCE,
        )[0]
        args[0] = answer.metadata["nfe"]
        return answer.data.clamp(-1, 1)

    return call, args


CALLS = {"ours": our_call, "diffusers": their_call}


def measure(name: str, folder: Path, side: int, steps: int, rounds: int) -> dict[str, Any]:
    made = {word: call(folder, side, steps) for word, call in CALLS.items()}
    answers = {word: job() for word, (job, _) in made.items()}
    spent = in_turn({word: job for word, (job, _) in made.items()}, rounds)
    return {
        "model": name,
        "side": side,
        "tokens": (side // STRIDE // 2) ** 2,
        "steps": steps,
        "evaluations": {word: args[0] for word, (_, args) in made.items()},
        **compared(spent, "diffusers", "ours"),
        "difference": float((answers["ours"] - answers["diffusers"]).abs().max()),
        "ours_peak_mib": peak("ours", folder, side, steps),
        "diffusers_peak_mib": peak("diffusers", folder, side, steps),
    }


def peak(which: str, folder: Path, side: int, steps: int) -> float:
    """MiB beyond the weights that one of both needs, in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--peak", which, str(side), str(steps)]
    command += ["--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_here(which: str, folder: Path, side: int, steps: int) -> float:
    job, _ = CALLS[which](folder, side, steps)
    job()  # what is loaded or made once stands now
    with Watch() as watch:
        job()
    return watch.peak


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["model      tokens  nfe      ours ms  theirs ms  times as fast  of processor  difference  peak MiB"]
    for row in rows:
        nfe = "{ours}, {diffusers}".format(**row["evaluations"])
        ratios = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})  {row['ratio_processor']:.2f}"
        peaks = ", ".join(f"{row[f'{which}_peak_mib']:.0f}" for which in CALLS)
        times = f"{row['ours_ms']:9.1f} {row['diffusers_ms']:10.1f}"
        what = f"{row['model']:10s} {row['tokens']:5d}  {nfe:7s}"
        lines.append(f"{what} {times}   {ratios}          {row['difference']:.1e}     {peaks}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with drawn(path, (5, 2.6)) as panel:
        names = [f"{row['model']}, {row['tokens']} tokens" for row in rows]
        panel.barh(names, [row["ratio_processor"] for row in rows])
        panel.axvline(1, color="#999", linewidth=0.8)
        panel.set(xlabel="whole sampling: times as fast as diffusers")


def main() -> None:
    parser = options(
        "whole guided sampling beside diffusers' LuminaPipeline", "the smallest size of each, few steps: under a minute"
    )
    parser.add_argument("folder", type=Path, help="a small pipeline folder, such as tests/tiny_pipeline")
    parser.add_argument("--peak", nargs=3, metavar=("WHICH", "SIDE", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_threads(args)
    if args.peak:
        print(peak_here(args.peak[0], args.folder, int(args.peak[1]), int(args.peak[2])))
        return
    steps, rounds = (2, 3) if args.quick else (6, 5)
    with tempfile.TemporaryDirectory() as place:
        folders = {"as it is": args.folder, "24 layers": deep(args.folder, Path(place) / "deep")}
        rows = [
            measure(name, folder, side, steps, rounds)
            for name, folder in folders.items()
            for side in (SIDES[name][:1] if args.quick else SIDES[name])
        ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {steps} Euler steps, guidance {GUIDANCE}")
    print(table(rows))
    written(args, {"rows": rows})
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
