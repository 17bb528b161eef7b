"""Do the paper's sizes fit? Peak memory of one 512x512 evaluation of the 2B-GQA recipe, and of decoding 2048x2048.

Random weights in bfloat16 on the CPU, each in a process of its own, everything that Python and torch take included:

- `evaluation`: the backbone and head of `image.2b_gqa`, 1024 tokens, 64 caption features; the bar is 8 GB;
- `decoding`: a VAE of SDXL's sizes, a latent of 256x256, in tiles as `image.kl` does it; the bar is 24 GB.

    python benchmarks/large_models.py [--what evaluation] [--json benchmarks/results/large_models.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from memory import read_status

from lumina_core.model import build_component
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.types import Condition
from lumina_image.autoencoders.kl import KLAutoencoder

BARS = {"evaluation": 8.0, "decoding": 24.0}


def evaluation() -> None:
    registry = load_plugins()
    recipe = Recipe.load("image.2b_gqa")
    torch.set_default_dtype(torch.bfloat16)  # so that weights are never there in float32 as well
    tokenizer = build_component(registry, "tokenizer", recipe.tokenizer, channels=4)
    assert recipe.backbone is not None and recipe.head is not None
    widths = {"token_dim": tokenizer.width, "cross_attention_dim": 2048, "pooled_dim": 2048}
    backbone = build_component(registry, "backbone", recipe.backbone, **widths).eval()
    head_widths = {"hidden_size": 2304, "token_dim": tokenizer.width, "modulation_dim": backbone.modulation_dim}
    head = build_component(registry, "head", recipe.head, **head_widths).eval()
    tokens = tokenizer.empty(1, (64, 64))
    tokens = tokens.with_values(torch.randn(tokens.values.shape))
    condition = Condition(context=torch.randn(1, 64, 2048), pooled=torch.randn(1, 2048))
    with torch.no_grad():
        answer = head(backbone(tokens, torch.full((1,), 0.5), condition), tokens)
    assert answer.shape == (1, 1024, 16) and bool(torch.isfinite(answer).all())


def decoding() -> None:
    from diffusers import AutoencoderKL

    widths = [128, 256, 512, 512]
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with tempfile.TemporaryDirectory() as folder:
        made = AutoencoderKL(
            **kinds, block_out_channels=widths, layers_per_block=2, sample_size=1024, scaling_factor=0.13025
        )
        made.to(torch.bfloat16).save_pretrained(folder)
        del made
        autoencoder = KLAutoencoder(KLAutoencoder.Config(source=folder, dtype="bfloat16"))
        with torch.no_grad():
            picture = autoencoder.decode(torch.randn(1, 4, 256, 256))
    assert picture.shape == (1, 3, 2048, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--what", nargs="+", choices=tuple(BARS), default=list(BARS), help="decoding takes long")
    parser.add_argument("--only", choices=tuple(BARS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        began = time.perf_counter()
        {"evaluation": evaluation, "decoding": decoding}[args.only]()
        print(json.dumps({"peak_gb": read_status("VmHWM") * 2**20 / 1e9, "seconds": time.perf_counter() - began}))
        return
    found = {}
    for name in args.what:
        bar = BARS[name]
        ran = subprocess.run([sys.executable, __file__, "--only", name], capture_output=True, text=True, check=True)
        found[name] = {**json.loads(ran.stdout.splitlines()[-1]), "bar_gb": bar}
        print(f"{name:12} {found[name]['peak_gb']:6.2f} GB at most (bar {bar:g}), {found[name]['seconds']:.0f} s")
    if args.json:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        args.json.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
