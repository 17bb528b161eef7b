"""Our backbone's forward pass beside diffusers' LuminaNextDiT2DModel: same weights, inputs and threads, pairs in turn.

    python benchmarks/speed.py [--quick] [--threads N] [--json FILE] [--plot FILE]

One evaluation as both make it while sampling: two items (the caption, and none), 1024 wide, 16 query and 4 key
heads, QK norm, proportional attention, a caption of 64 entries of which some are padding; 256, 1024 and 4096 tokens.
What diffusers keeps between evaluations (its rotary table) is not counted against it, nor against us what we prepare
once a request. Each round times one call of each, and the ratio is taken within the round; reported are medians, the
same in seconds of the processor (which other programs disturb less), the largest difference of the answers, and what
each needs in memory beyond its weights (peak resident size, in a process of its own).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from memory import Watch
from torch import Tensor
from turns import compared, drawn, in_turn, options, set_threads, written

WIDTH, HEADS, KV, DEPTH, CAPTION, LENGTH = 1024, 16, 4, 4, 512, 64
SIDES = {256: 32, 1024: 64, 4096: 128}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], Tensor]


def theirs(dtype: torch.dtype) -> Any:
    from diffusers import LuminaNextDiT2DModel

    torch.manual_seed(0)
    model = LuminaNextDiT2DModel(
        sample_size=128, patch_size=2, in_channels=4, hidden_size=WIDTH, num_layers=DEPTH, num_attention_heads=HEADS,
        num_kv_heads=KV, multiple_of=256, norm_eps=1e-5, learn_sigma=True, qk_norm=True, cross_attention_dim=CAPTION,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif not name.endswith("weight"):
                parameter.normal_(std=0.2)
        for number in range(DEPTH):  # its queries are stored twice and must be the same
            layer = model.layers[number]
            layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
            layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    return model.to(dtype).eval()


def their_call(model: Any, x: Tensor, t: Tensor, caption: Tensor, mask: Tensor, tokens: int) -> Call:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    table = get_2d_rotary_pos_embed_lumina(WIDTH // HEADS, 384, 384)
    extra = {"base_sequence_length": 4096}

    def call() -> Tensor:
        answer = model(x, t, caption, mask, table, cross_attention_kwargs=extra, return_dict=False)[0]
        return answer.chunk(2, dim=1)[0]

    return call


def our_call(model: Any, x: Tensor, t: Tensor, caption: Tensor, mask: Tensor) -> Call:
    from lumina_core.checkpoint.lazy_tensors import InMemoryTensor
    from lumina_core.conditioning.ops import mean_pool
    from lumina_core.models.dit import proportional_scale
    from lumina_core.models.heads import VelocityHead
    from lumina_core.models.next_dit import NextDiTBackbone
    from lumina_core.tokenizers import Patchify2D
    from lumina_core.types import Condition
    from lumina_image.formats.next_dit import PAD_TOKEN, DiffusersNextDiTAdapter

    adapter = DiffusersNextDiTAdapter()
    arguments = adapter.config_from(dict(model.config), "benchmark")
    foreign = {name: InMemoryTensor(tensor) for name, tensor in model.state_dict().items()}
    state = {name: tensor.load() for name, tensor in adapter.from_foreign(foreign, arguments, "benchmark").items()}
    state.pop(PAD_TOKEN, None)
    network = arguments.native_network()
    network.load_state_dict(state)
    network.to(x.dtype).eval()
    backbone, head = cast("NextDiTBackbone", network["backbone"]), cast("VelocityHead", network["head"])
    patches = Patchify2D(Patchify2D.Config(patch_size=2, channels=4))
    condition = Condition(context=caption, context_mask=mask.bool(), pooled=mean_pool(caption, mask.bool()))
    tokens = patches.patchify(x)
    scale = proportional_scale(tokens, None, 4096, WIDTH // HEADS)
    precomputed = backbone.precompute(tokens, condition, None, scale)

    def call() -> Tensor:
        # cutting into patches and back is counted: diffusers does it inside
        cut = patches.patchify(x)
        return patches.unpatchify(cut.with_values(head(backbone(cut, t, condition, precomputed=precomputed), cut)))

    return call


def inputs(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = SIDES[tokens]
    x = torch.randn(1, 4, side, side, generator=generator).expand(2, -1, -1, -1).contiguous()
    mask = torch.ones(2, LENGTH, dtype=torch.int64)
    mask[0, 40:], mask[1, 8:] = 0, 0
    caption = torch.randn(2, LENGTH, CAPTION, generator=generator)
    return x.to(dtype), torch.full((2,), 0.4, dtype=dtype), caption.to(dtype), mask


def measure(tokens: int, name: str, rounds: int, budget: float) -> dict[str, Any]:
    model, args = theirs(DTYPES[name]), inputs(tokens, DTYPES[name])
    jobs = {"diffusers": their_call(model, *args, tokens), "ours": our_call(model, *args)}
    answers = {word: job().float() for word, job in jobs.items()}
    return {
        "tokens": tokens,
        "dtype": name,
        **compared(in_turn(jobs, rounds, budget), "diffusers", "ours"),
        "difference": float((answers["ours"] - answers["diffusers"]).abs().max()),
    }


def peak(which: str, tokens: int, name: str) -> float:
    """MiB that a call of one of both takes at its peak beyond what stood there before, in this process."""
    model, args = theirs(DTYPES[name]), inputs(tokens, DTYPES[name])
    job = our_call(model, *args) if which == "ours" else their_call(model, *args, tokens)
    job()  # what is made once stands now
    with Watch() as watch:
        job()
    return watch.peak


def peaks(tokens: int, name: str) -> dict[str, float]:
    peaks = {}
    for which in ("ours", "diffusers"):
        command = [sys.executable, __file__, "--peak", which, str(tokens), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[f"{which}_peak_mib"] = float(done.stdout.split()[-1])
    return peaks


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["tokens  format     ours ms  theirs ms  times as fast  of processor  difference  peak MiB ours, theirs"]
    for row in rows:
        times = f"{row['ours_ms']:8.1f} {row['diffusers_ms']:10.1f}"
        ratios = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})  {row['ratio_processor']:.2f}"
        peaks_of = [row.get(f"{which}_peak_mib") for which in ("ours", "diffusers")]
        peak_of = ", ".join("not measured" if peak is None else f"{peak:.0f}" for peak in peaks_of)
        what = f"{row['tokens']:6d}  {row['dtype']:9s}"
        lines.append(f"{what} {times}   {ratios}          {row['difference']:.1e}     {peak_of}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with drawn(path) as panel:
        for name in DTYPES:
            own = [row for row in rows if row["dtype"] == name]
            panel.plot([row["tokens"] for row in own], [row["ratio_processor"] for row in own], marker="o", label=name)
        panel.axhline(1, color="#999", linewidth=0.8)
        panel.set(xlabel="tokens", ylabel="times as fast as diffusers", xscale="log")
        panel.set_xticks(list(SIDES), [str(tokens) for tokens in SIDES])
        panel.minorticks_off()
        panel.legend()


def main() -> None:
    parser = options("forward beside diffusers' LuminaNextDiT2DModel", "fewer rounds, no 4096 tokens: about a minute")
    parser.add_argument("--peak", nargs=3, metavar=("WHICH", "TOKENS", "FORMAT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_threads(args)
    with torch.inference_mode():
        if args.peak:
            print(peak(args.peak[0], int(args.peak[1]), args.peak[2]))
            return
        rows = []
        for tokens in SIDES:
            for name in DTYPES:
                if args.quick and tokens == 4096:
                    continue
                row = measure(tokens, name, *((5, 6.0) if args.quick else (25, 30.0)))
                rows.append({**row, **peaks(tokens, name)})
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEPTH} layers of {WIDTH}")
    print(table(rows))
    written(args, {"rows": rows})
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
