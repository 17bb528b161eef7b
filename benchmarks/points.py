"""Measure a model of point clouds: any count, density, families, text, completion, real furniture; with rows of truth.

    python benchmarks/points.py --model 3d.points --baseline runs/points-baseline --out points.json --per-class 200
    python benchmarks/points.py --model 3d.points --parts density,speed --out points.json

Chamfer distances are computed by torch on the device, in float32 without matrix products; `lumina evaluate` computes
the same scores by scipy. Clouds are compared in the coordinates of the data, boxes in [-1, 1] (`luo` after
`normalize`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_3d.families.captions import CLASS_NAMES, full_caption
from lumina_3d.families.measure import measure
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_3d.points import distances
from lumina_3d.points.dataset import half_space
from lumina_3d.points.distances import coverage, density_scores, density_slope, mmd, nearest_neighbor_accuracy
from lumina_3d.points.furniture import Furniture
from lumina_core import Pipeline

COUNTS = (256, 512, 1024, 2048, 4096, 8192)
ELEMENTS = 2**28


def real_clouds(family: str, indices: Sequence[int], count: int, split: str, seed: int = 11) -> Tensor:
    """Points (S, count, 3) in [-1, 1] of shapes."""
    rows = [2 * make_shape(family, i, split).mesh.sample(count, np.random.default_rng((seed, i)))[0] for i in indices]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def normalize(clouds: Tensor) -> Tensor:
    """Each cloud's box centre and half of its longest side (S, N, 3): the protocol `luo`."""
    low, high = clouds.amin(1, keepdim=True), clouds.amax(1, keepdim=True)
    return (clouds - (low + high) / 2) / ((high - low).amax(2, keepdim=True) / 2)


def _nearest(a: Tensor, b: Tensor) -> Tensor:
    return ((a[:, :, None] - b[:, None]) ** 2).sum(-1).amin(2)


_FUSED: list[Callable[[Tensor, Tensor], Tensor]] = []


def nearest_squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (P, N) of each point of a (P, N, 3) to the nearest of b (P, M, 3)."""
    if a.is_cuda:
        try:
            if not _FUSED:
                _FUSED.append(torch.compile(_nearest, dynamic=True))
            return _FUSED[0](a.contiguous(), b.contiguous())
        except Exception as error:
            print(f"no compiled distances ({error})", flush=True)
            _FUSED[:] = [_eager_nearest]
    return _eager_nearest(a, b)


def _eager_nearest(a: Tensor, b: Tensor) -> Tensor:
    mode = "donot_use_mm_for_euclid_dist"
    step = max(1, ELEMENTS // (a.shape[1] * b.shape[1]))
    parts = [
        torch.cdist(x, y, compute_mode=mode).amin(2) ** 2 for x, y in zip(a.split(step), b.split(step), strict=True)
    ]
    return torch.cat(parts)


def chamfer_table(first: Tensor, second: Tensor, device: str, chunk: int = 512) -> np.ndarray:
    """Chamfer distances (M, P) between clouds (M, N, 3) and (P, N, 3)."""
    first, second = first.to(device), second.to(device)
    pairs = torch.cartesian_prod(torch.arange(len(first)), torch.arange(len(second))).to(device)
    rows = []
    for part in pairs.split(chunk):
        padded = torch.cat([part, part[:1].expand(chunk - len(part), -1)]) if len(pairs) > chunk else part
        a, b = first[padded[:, 0]], second[padded[:, 1]]
        rows.append((nearest_squared(a, b).mean(1) + nearest_squared(b, a).mean(1))[: len(part)])
    return torch.cat(rows).view(len(first), len(second)).double().cpu().numpy()


class Generator:
    """Clouds of prompts by the pipeline with the command's defaults."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe

    def __call__(self, prompts: Sequence[str], count: int, seed: int = 0, **options: Any) -> Tensor:
        out = self.pipe(list(prompts), count=count, seed=seed, batch_size=64, output_type="tensor", **options)
        return torch.stack([one.T for one in out.points])


class Baseline:
    """Clouds of classes by the model after Luo and Hu."""

    def __init__(self, folder: Path, device: str) -> None:
        from points_baseline import LATENT, SCALE, Decoder
        from safetensors.torch import load_file

        self.decoder, self.device, self.latent, self.scale = Decoder().to(device), device, LATENT, SCALE
        self.decoder.load_state_dict({k: v.float() for k, v in load_file(folder / "decoder.safetensors").items()})

    def __call__(self, label: int, number: int, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        latent = torch.randn(number, self.latent, device=self.device, generator=generator)
        labels = torch.full((number,), label, device=self.device)
        parts = [
            self.decoder.sample(z, y, count, generator) for z, y in zip(latent.split(50), labels.split(50), strict=True)
        ]
        return (torch.cat(parts) / self.scale).cpu()


def set_scores(generated: Tensor, real: Tensor, device: str, real_table: np.ndarray) -> dict[str, float]:
    cross = chamfer_table(generated, real, device)
    within = chamfer_table(generated, generated, device)
    return {
        "mmd_cd": 1e3 * mmd(cross),
        "cov_cd": coverage(cross),
        "nna_cd": nearest_neighbor_accuracy(within, cross, real_table),
    }


def families(generate: Generator, baseline: Baseline | None, device: str, per_class: int) -> dict[str, Any]:
    """COV, 1-NNA and MMD at 2048 points; rows: model, baseline, ideal (held-out draws), train (training shapes)."""
    result: dict[str, Any] = defaultdict(dict)
    for label, family in enumerate(FAMILIES):
        start = time.time()
        real = normalize(real_clouds(family, range(per_class), 2048, "test"))
        real_table = chamfer_table(real, real, device)
        rows = {
            "model": generate([CLASS_NAMES["en"][label]] * per_class, 2048, seed=label * per_class),
            "ideal": real_clouds(family, range(per_class, 2 * per_class), 2048, "test"),
            "train": real_clouds(family, range(per_class), 2048, "train"),
        }
        if baseline is not None:
            rows["baseline"] = baseline(label, per_class, 2048, seed=label)
        for name, clouds in rows.items():
            result[name][family] = set_scores(normalize(clouds), real, device, real_table)
        print(family, {n: {k: round(v, 3) for k, v in result[n][family].items()} for n in rows}, flush=True)
        print(f"{time.time() - start:.1f} s", flush=True)
    for name in list(result):
        scores = list(result[name].values())
        result[name]["mean"] = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
    return {"per_class": per_class, **result}


def any_count(generate: Generator, baseline: Baseline | None, device: str, number: int) -> dict[str, Any]:
    """MMD-CD of N generated against N real points over the ideal row's at that N; density at every N."""
    result: dict[str, Any] = {}
    density: dict[str, list[dict[str, float]]] = defaultdict(list)
    for count in COUNTS:
        table: dict[str, list[float]] = defaultdict(list)
        scores: dict[str, list[dict[str, float]]] = defaultdict(list)
        for label, family in enumerate(FAMILIES):
            real = real_clouds(family, range(number), count, "test")
            rows = {
                "ideal": real_clouds(family, range(number, 2 * number), count, "test"),
                "model": generate([CLASS_NAMES["en"][label]] * number, count, seed=label * number),
            }
            if baseline is not None:
                rows["baseline"] = baseline(label, number, count, seed=label)
            for name, clouds in rows.items():
                # a few pairs at a time: the distances of two clouds of 8192 points are 67 million
                table[name].append(mmd(chamfer_table(normalize(clouds), normalize(real), device, 64)))
                scores[name] += [density_scores(cloud.double().numpy()) for cloud in clouds[:4]]
        result[str(count)] = {name: float(np.mean(values)) * 1e3 for name, values in table.items()}
        for name, values in table.items():
            result[str(count)][f"{name}_over_ideal"] = float(np.mean(values) / np.mean(table["ideal"]))
        for name, found in scores.items():
            density[name].append({key: float(np.mean([one[key] for one in found])) for key in found[0]})
        print(count, {key: round(value, 3) for key, value in result[str(count)].items()}, flush=True)
    result["density"] = {
        name: {
            "slope": density_slope(COUNTS, [one["nearest"] for one in values]),
            "variation_8192": values[-1]["variation"],
            "flatness_8192": values[-1]["flatness"],
            "by_count": values,
        }
        for name, values in density.items()
    }
    print({n: {k: round(v, 3) for k, v in d.items() if k != "by_count"} for n, d in result["density"].items()})
    return result


def settings(pipe: Pipeline, device: str, number: int) -> dict[str, Any]:
    """Treatments of more points than in training, compared on equal prompts and seeds."""
    from lumina_3d.points import coordinates as c

    backbone: Any = pipe.model.backbone
    config, features = backbone.config, backbone.features
    names = [CLASS_NAMES["en"][label] for label in range(len(FAMILIES))] * number
    kinds = {
        "fourier": c.FourierFeatures,
        "interpolated_fourier": c.InterpolatedFourierFeatures,
        "time_aware_fourier": c.TimeAwareFourierFeatures,
    }
    rows = [("anchors", "fourier", None)]
    rows += [("all points", kind, base) for kind in kinds for base in (None, 256)]
    result = {}
    for mode, kind, base in rows:
        options = {} if base is None else {"base_sequence_length": base}
        backbone.config = config.model_copy(update={"anchors": mode == "anchors"})
        backbone.features = kinds[kind](kinds[kind].Config(**features.config.model_dump()))
        row: dict[str, Any] = {}
        for count in (1024, 4096, 8192):
            start = time.time()
            clouds = Generator(pipe)(names, count, seed=3, **options)
            seconds = time.time() - start
            near = []
            for label, family in enumerate(FAMILIES):
                real = normalize(real_clouds(family, range(20), count, "test"))
                table = chamfer_table(normalize(clouds[label :: len(FAMILIES)]), real, device, 20)
                near.append(table.min(axis=1).mean())
            found = [density_scores(cloud.double().numpy()) for cloud in clouds[: len(FAMILIES)]]
            row[str(count)] = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            row[str(count)] |= {"nearest_real_cd": 1e3 * float(np.mean(near)), "seconds": seconds / len(clouds)}
        row["slope_1024_8192"] = density_slope((1024, 4096, 8192), [row[str(n)]["nearest"] for n in (1024, 4096, 8192)])
        result[f"{mode}, {kind}, proportional {'on' if base else 'off'}"] = row
        print(mode, kind, base, {k: round(v, 4) for k, v in row["8192"].items()}, round(row["slope_1024_8192"], 3))
    backbone.config, backbone.features = config, features
    return result


def text(generate: Generator, device: str, number: int) -> dict[str, Any]:
    """Attributes and class of clouds from captions that name every attribute."""
    result: dict[str, Any] = {}
    bank = [normalize(real_clouds(family, range(500, 540), 512, "test")) for family in FAMILIES]
    bank_labels = np.repeat(np.arange(len(FAMILIES)), 40)
    for split in ("test", "held_out"):
        shapes = [make_shape(family, 300 + i, split) for family in FAMILIES for i in range(number)]
        clouds = generate([full_caption(shape, with_color=False) for shape in shapes], 2048, seed=50)
        truth = torch.cat([real_clouds(s.family, [300 + i % number], 2048, split) for i, s in enumerate(shapes)])
        nearest = chamfer_table(normalize(clouds[:, :512]), torch.cat(bank), device, 512).argmin(axis=1)
        right = np.array([shape.label for shape in shapes]) == bank_labels[nearest]
        scores: dict[str, list[bool]] = defaultdict(list)
        real_scores: list[bool] = []
        for shape, cloud, real in zip(shapes, clouds, truth, strict=True):
            found = measure(shape.family, cloud.double().numpy())
            on_real = measure(shape.family, real.double().numpy())
            for name, value in shape.attributes.items():
                scores[f"{shape.family}.{name}"].append(found[name] == value)
                real_scores.append(on_real[name] == value)
        values = [value for found_values in scores.values() for value in found_values]
        result[split] = {
            "class": float(right.mean()),
            "attributes": float(np.mean(values)),
            "attributes_of_real_draws": float(np.mean(real_scores)),
            "by_attribute": {name: float(np.mean(found_values)) for name, found_values in scores.items()},
        }
        print(split, {k: v for k, v in result[split].items() if k != "by_attribute"}, flush=True)
    languages = {}
    for language, names in CLASS_NAMES.items():
        clouds = generate(list(names) * 3, 512, seed=70)
        nearest = chamfer_table(normalize(clouds), torch.cat(bank), device, 512).argmin(axis=1)
        languages[language] = float((bank_labels[nearest] == np.tile(np.arange(len(names)), 3)).mean())
    result["class_by_language"] = languages
    print(languages, flush=True)
    return result


def memorized(generate: Generator, device: str, number: int) -> dict[str, Any]:
    """Share of clouds that are nearer to a training cloud than to any held-out draw; the sets are equally large."""
    shares: dict[str, list[float]] = defaultdict(list)
    for label, family in enumerate(FAMILIES):
        train = normalize(real_clouds(family, range(4 * number), 512, "train"))
        held = normalize(real_clouds(family, range(4 * number), 512, "test"))
        rows = {
            "model": generate([CLASS_NAMES["en"][label]] * number, 512, seed=900 + label * number),
            "held-out draws": real_clouds(family, range(5000, 5000 + number), 512, "test"),
        }
        for name, clouds in rows.items():
            to_train = chamfer_table(normalize(clouds), train, device).min(axis=1)
            to_held = chamfer_table(normalize(clouds), held, device).min(axis=1)
            shares[name].append(float((to_train < to_held).mean()))
    result = {name: float(np.mean(values)) for name, values in shares.items()}
    print(result, flush=True)
    return result


def completion(generate: Generator, device: str, number: int) -> dict[str, Any]:
    """Chamfer distance of completions of 128 points of a half-space to the truth, at 2048 points."""
    ours, retrieved, oracle, exact = [], [], [], []
    for family in FAMILIES:
        bank = real_clouds(family, range(300), 2048, "train")
        for index in range(number):
            shape = make_shape(family, 7000 + index, "test")
            truth = real_clouds(family, [7000 + index], 2048, "test")
            partial = half_space(shape, 128, np.random.default_rng(index))
            made = generate([family], 2048, seed=index, partial=partial)
            exact.append(bool(torch.equal(made[0, -128:], partial)))
            ours.append(chamfer_table(made, truth, device)[0, 0])
            one_sided = nearest_squared(partial.expand(300, -1, -1).to(device), bank.to(device)).mean(1)
            to_truth = chamfer_table(bank, truth, device, 300)[:, 0]
            retrieved.append(to_truth[int(one_sided.argmin())])
            oracle.append(to_truth.min())
    result = {
        "model": 1e3 * float(np.mean(ours)),
        "training cloud nearest to the given points": 1e3 * float(np.mean(retrieved)),
        "training cloud nearest to the truth": 1e3 * float(np.mean(oracle)),
        "given points are bit for bit": float(np.mean(exact)),
    }
    print(result, flush=True)
    return result


def furniture(generate: Generator, folder: Path | None) -> dict[str, Any]:
    """MMD and COV against as many real clouds, and the class of generated clouds by the nearest of all real ones."""
    names, count = ("chair", "table", "lamp", "sofa", "bed"), 1024
    real = Furniture(Furniture.Config(folder=folder, families=names))
    labels = np.array([names.index(real.family(index)) for index in range(len(real))])
    clouds = normalize(torch.stack([real.cloud(index).T[:count] for index in range(len(real))])).numpy()
    result: dict[str, Any] = {"points": count}
    right: dict[str, list[np.ndarray]] = defaultdict(list)
    for label, name in enumerate(names):
        own = labels == label
        number = int(own.sum())
        rows = {
            "model": generate([name] * number, count, seed=label * 100),
            "new shapes of the family": real_clouds(name, range(number), count, "test"),
        }
        result[name] = {"real clouds": number}
        for row, made in rows.items():
            table = distances.chamfer_table(list(normalize(made).numpy()), list(clouds))
            right[row].append(labels[table.argmin(axis=1)] == label)
            scores = {"mmd_cd": 1e3 * mmd(table[:, own]), "cov_cd": coverage(table[:, own])}
            result[name][row] = {**scores, "class": float(right[row][-1].mean())}
            print(name, row, {key: round(value, 3) for key, value in result[name][row].items()}, flush=True)
    result["class"] = {row: float(np.concatenate(found).mean()) for row, found in right.items()}
    print(result["class"], flush=True)
    return result


def speed(generate: Generator) -> dict[str, Any]:
    """Seconds of one cloud with the command's defaults, warm; the best of two."""
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    generate(["a chair"], 256)
    for count in (2048, 8192):
        seconds = []
        for seed in range(2):
            start = time.time()
            generate(["a chair"], count, seed=seed)
            seconds.append(time.time() - start)
        result[str(count)] = min(seconds)
    result["ratio"] = result["8192"] / result["2048"]
    print(result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="3d.points")
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--number", type=int, default=20, help="clouds per class in the other parts")
    parser.add_argument("--furniture", type=Path, help="folder of build_furniture.py; default: the shipped CC0 models")
    parser.add_argument("--parts", default="any_count,families,text,memorized,completion,furniture,settings,speed")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model, device=args.device)
    baseline = None if args.baseline is None else Baseline(args.baseline, args.device)
    run(pipe, baseline, args.device, args.parts.split(","), args.out, args.per_class, args.number, args.furniture)


def run(
    pipe: Pipeline,
    baseline: Baseline | None,
    device: str,
    parts: Sequence[str],
    out: Path,
    per_class: int,
    number: int,
    real_furniture: Path | None,
) -> dict[str, Any]:
    """Run parts, and write the results after each."""
    generate = Generator(pipe)
    functions: dict[str, Callable[[], Any]] = {
        "any_count": lambda: any_count(generate, baseline, device, number),
        "families": lambda: families(generate, baseline, device, per_class),
        "text": lambda: text(generate, device, number),
        "memorized": lambda: memorized(generate, device, 2 * number),
        "completion": lambda: completion(generate, device, max(1, number // 4)),
        "furniture": lambda: furniture(generate, real_furniture),
        "settings": lambda: settings(pipe, device, 1),
        "speed": lambda: speed(generate),
    }
    report: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for part in parts:
        start = time.time()
        report[part] = dict(functions[part]())
        report[part]["run_seconds"] = round(time.time() - start, 1)
        out.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
