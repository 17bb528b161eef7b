"""Evaluation of a model: generate for prompts of a data set, extract features, compute metrics. Resumable."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec, suggest_or_list
from lumina_core.data.dataset import MapStyleDataset
from lumina_core.errors import CheckpointError, ConfigError, LuminaError, suggest
from lumina_core.evaluation.eval_set import (
    noise_seeds,
    reference_index,
    resolve_eval_set,
    resolve_languages,
    resolve_split,
    sample_items,
)
from lumina_core.evaluation.scores import MetricValue, aggregate, environment, metric_report
from lumina_core.evaluation.store import StoredTensors, TensorStore, open_run
from lumina_core.model import Model, build_component
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset, EvalInputs, EvalItem, EvalSet, FeatureExtractor, Metric
from lumina_core.request import Request
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.sampling.resolve import batch_key, resolve_sampling
from lumina_core.training.distributed import ProcessInfo, call_in_main, full_tensor, gather_results, is_sharded

NUM_PREVIEWS = 32
"""Number of generated examples in the overview."""
REAL_CHUNK = 64
"""Number of real examples in one pass through a feature extractor."""
CONFIG_FILE, BATCHES_DIR, REFERENCES_DIR = "eval_config.json", "batches", "reference_features"

ProgressCallback = Callable[[str, int, int], None]
"""(name of the stage, number done, total)."""


@dataclass(frozen=True)
class EvalResult(Mapping[str, Mapping[str, MetricValue]]):
    """Scores by metric and name: `result["image.retrieval"]["top1"].value`.

    Attributes:
        scores: the scores.
        eval_items: prompts, one per generated example.
        seeds: noise seed of each generated example.
        previews: the first generated examples, each followed by its real one, (channels, ...); of several processes, in
            the first one.
        report: all that is needed to repeat the evaluation, as JSON takes it, with the scores.
    """

    scores: Mapping[str, Mapping[str, MetricValue]]
    eval_items: Sequence[EvalItem]
    seeds: Sequence[int]
    previews: Sequence[Tensor]
    report: Mapping[str, Any]

    def __getitem__(self, metric: str) -> Mapping[str, MetricValue]:
        return self.scores[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class _Plan:
    """What is settled before the first example is generated."""

    pipeline: Pipeline
    eval_set: EvalSet
    metrics: Mapping[str, Metric]
    items: Sequence[EvalItem]
    requests: Sequence[Request]
    references: Tensor
    progress: ProgressCallback
    process: ProcessInfo

    @property
    def feature_extractors(self) -> dict[str, FeatureExtractor]:
        """Feature extractors by key, each once for all metrics."""
        return {metric.feature_extractor.key: metric.feature_extractor for metric in self.metrics.values()}


def evaluate(
    pipe: Pipeline,
    dataset: str | Path | Dataset | EvalSet | MapStyleDataset | None = None,
    metrics: Sequence[str | Metric] | Mapping[str, Metric] | str | Metric | None = None,
    *,
    num_samples: int = 500,
    samples_per_prompt: int = 1,
    languages: Sequence[str] = (),
    split: str | None = None,
    seed: int = 0,
    batch_size: int = 50,
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    progress: ProgressCallback | None = None,
    process: ProcessInfo | None = None,
    **settings: Any,
) -> EvalResult:
    """Evaluate a model: generate an example for each prompt of a data set and compare them with the real ones.

    Args:
        pipe: pipeline of a model whose task generates data.
        dataset: name of a data set (`emoji` or `image.emoji`) or recipe, a folder, a `Dataset`, a PyTorch data set of
            dicts, or an `EvalSet`. None: the data set of the model's recipe.
        metrics: names (`image.retrieval`) or `Metric` objects, or objects by name. None: every metric of the task's
            plugin that works without options.
        num_samples: number of prompts in each language, at most the size of the split.
        samples_per_prompt: number of generated examples per prompt, each with its own noise.
        languages: languages of the prompts, ("all",) for all of the data set, () for its default one.
        split: split of the data set; None: its default one.
        seed: seed of the prompts and of the noise.
        batch_size: number of examples generated at once. Scores depend on it only by rounding.
        metric_options: options by name of a metric: {"image.frechet_distance": {"min_samples": 20}}.
        out: folder for generated features, so that an interrupted evaluation can be resumed. None: nothing is written.
        resume: continue the evaluation in `out`; the scores are the same.
        cache: folder for features of real examples, shared by several evaluations. None: inside `out`.
        progress: callback with the stage, the number done and the total.
        process: this process of several that share the work (a trainer's `process`): all make the same call and get the
            same result; the first one writes files. None: this process works alone.
        **settings: fields of every request: steps, solver, guidance_scale, ...

    Returns:
        The scores with 95 % confidence intervals; `result["image.retrieval"]["top1"].value`.

    Raises:
        ConfigError: a name or an option is unknown, the model cannot be evaluated on this data set or by a metric, or a
            folder cannot be written to.
        PluginError: a metric needs a library or weights that are not installed.
    """
    registry, task = pipe.registry, pipe.model.generation_task
    for name in settings:
        if name not in task.Request.model_fields:
            known = [*inspect.signature(evaluate).parameters, *task.Request.model_fields]
            raise ConfigError(f"{name}: got an unknown option, expected a field of the request{suggest(name, known)}")
    dataset_name = str(dataset) if isinstance(dataset, str | Path) else type(dataset).__name__
    dataset_name = "the model's own" if dataset is None else dataset_name
    eval_set = resolve_eval_set(dataset, pipe.model, registry)
    split, language_list = resolve_split(eval_set, split), resolve_languages(eval_set, languages)
    available = len(eval_set.indices(split))
    count = min(min(num_samples, available) * samples_per_prompt * len(language_list), available)
    metrics, notes = resolve_metrics(metrics, metric_options or {}, pipe.model, registry, count)
    if available < num_samples:
        notes.append(f"the split '{split}' has {available} examples, fewer than {num_samples}; each is used once")
    prompts = sample_items(eval_set, split, language_list, num_samples, seed)
    items = [item for item in prompts for _ in range(samples_per_prompt)]
    seeds = noise_seeds(len(prompts) // len(language_list), len(language_list), samples_per_prompt, seed)
    requests = [
        pipe.make_request(**{**task.request_for(item.fields), **settings, "seed": noise_seed})
        for item, noise_seed in zip(items, seeds, strict=True)
    ]
    references = reference_index(eval_set, split)
    process, progress = process or ProcessInfo(0, 1, pipe.model.device), progress or (lambda stage, done, total: None)
    plan = _Plan(pipe, eval_set, metrics, items, requests, references, progress, process)
    for extractor in plan.feature_extractors.values():
        extractor([eval_set.reference(0)])  # data of another form are refused before anything is generated

    fingerprint, digest = model_fingerprint(pipe.model), call_in_main(eval_set.digest, process)
    config = {
        "model": fingerprint,
        "data": digest,
        "split": split,
        "languages": language_list,
        "samples": num_samples,
        "samples_per_prompt": samples_per_prompt,
        "seed": seed,
        "settings": {key: str(value) for key, value in sorted(settings.items())},
        **({"loras": list(pipe.loras)} if pipe.loras else {}),
    }
    # other processes than the first one keep nothing
    folder = None if out is None or not process.is_main else Path(out)
    if folder is not None and cache is None:
        cache = folder / REFERENCES_DIR
    call_in_main(lambda: open_run(folder, config, CONFIG_FILE, resume) if folder is not None else None, process)
    store = TensorStore(None if folder is None else folder / BATCHES_DIR)
    cache_store = TensorStore(None if cache is None or not process.is_main else Path(cache))
    _generate(plan, store, batch_size)
    real = {
        key: _real_features(plan, extractor, cache_store, digest) for key, extractor in plan.feature_extractors.items()
    }
    scores, score_notes = call_in_main(lambda: _compute_scores(plan, store, real), process)
    batches = call_in_main(lambda: [batch.metadata for batch in store.entries()], process)
    report = {
        "model": {
            "sha256": fingerprint,
            "task": pipe.model.recipe.task.type,
            **({"loras": list(pipe.loras)} if pipe.loras else {}),
        },
        "dataset": {"name": dataset_name, "sha256": digest, "num_real": len(eval_set)},
        "samples": num_samples,
        "samples_per_prompt": samples_per_prompt,
        "num_generated": len(items),
        "split": split,
        "languages": [language for language in language_list if language is not None],
        "seed": seed,
        "seeds": [min(seeds), max(seeds)],
        "settings": batches[0]["settings"],
        "nfe": batches[0]["nfe"],
        "batch_size": batch_size,
        "generation_seconds": round(sum(metadata["generation_seconds"] for metadata in batches), 1),
        "scores": {name: metric_report(metrics[name], values) for name, values in scores.items()},
        "notes": notes + score_notes,
        **environment(registry, pipe.model.device, metrics),
    }
    return EvalResult(scores, items, seeds, _previews(plan, store), report)


def resolve_metrics(
    metrics: Sequence[str | Metric] | Mapping[str, Metric] | str | Metric | None,
    options: Mapping[str, Mapping[str, Any]],
    model: Model,
    registry: Registry,
    num_generated: int,
) -> tuple[dict[str, Metric], list[str]]:
    """Build the metrics of an evaluation by name, see `evaluate`.

    Args:
        metrics: names or objects; None: every metric of the task's plugin for its data that works without options.
        options: options by name of a metric.
        model: the model.
        registry: the registry.
        num_generated: number of examples that will be compared.

    Returns:
        The metrics, and notes on those that are not computed by default.

    Raises:
        ConfigError: an option is unknown or for another metric, or a metric needs more examples.
    """
    if isinstance(metrics, str | Metric):
        metrics = [metrics]
    by_default = metrics is None
    if metrics is None:
        plugin = model.recipe.task.type.partition(".")[0]
        metrics = [name for name in registry.registrations("metric") if name.partition(".")[0] == plugin]
    entries = list(metrics.items()) if isinstance(metrics, Mapping) else [("", metric) for metric in metrics]
    names = [name or _metric_name(metric, registry) for name, metric in entries]
    if len(set(names)) < len(names):
        raise ConfigError(f"metrics: got {', '.join(names)}, expected each once. Give objects by name in a dict.")
    full_options = {_full_name(name, names): values for name, values in options.items()}
    resolved: dict[str, Metric] = {}
    notes = []
    for name, (_, entry) in zip(names, entries, strict=True):
        try:
            metric = _build_metric(name, full_options.get(name, {}), registry) if isinstance(entry, str) else entry
        except LuminaError as error:
            if not by_default or name in full_options:
                raise
            notes.append(f"{name} is not computed: {error}")
            continue
        if by_default and metric.feature_extractor.data_field not in ("", model.generation_task.data_field):
            continue
        if num_generated >= metric.min_samples:
            resolved[name] = metric
            continue
        reason = f"got {num_generated} generated and real examples, expected at least {metric.min_samples} of each"
        if not by_default:
            raise ConfigError(f"{name}: {reason}. Raise the number of samples, or choose other metrics.")
        notes.append(f"{name} is not computed: {reason}")
    if not resolved:
        raise ConfigError(
            f"metrics: got none, and no installed metric works without options ({'; '.join(notes) or 'none installed'})"
        )
    return resolved, notes


def _metric_name(metric: str | Metric, registry: Registry) -> str:
    if isinstance(metric, Metric):
        return metric.name or type(metric).__name__
    if not isinstance(metric, str):
        raise ConfigError(f"metrics: got {type(metric).__name__}, expected a name or a lumina_core Metric.")
    available = registry.registrations("metric")
    if metric in available:
        return metric
    registry.find("metric", metric)  # raises with the nearest name
    return next(name for name in available if name.rpartition(".")[2] == metric)


def _full_name(name: str, names: Sequence[str]) -> str:
    for full_name in names:
        if name in (full_name, full_name.rpartition(".")[2]):
            return full_name
    raise ConfigError(
        f"metric_options: got '{name}', expected the name of a metric of this evaluation{suggest_or_list(name, names)}"
    )


def _build_metric(name: str, options: Mapping[str, Any], registry: Registry) -> Metric:
    metric = build_component(registry, "metric", ComponentSpec.model_validate({"type": name, **options}))
    if not isinstance(metric, Metric):
        raise ConfigError(f"metric {name}: got {type(metric).__name__}, expected a subclass of lumina_core's Metric.")
    return metric


def model_fingerprint(model: Model) -> str:
    """Return a SHA-256 of the recipe and all weights of a model."""
    hasher = hashlib.sha256(model.recipe.model_dump_json(exclude_defaults=True).encode())
    # FSDP2 divides what is gathered for sampling if a state dict is taken, and cannot free what numpy has a view of
    shared = _is_sharded(model)
    tensors = dict(model.named_parameters()) if shared else model.state_dict()
    for name, tensor in sorted(tensors.items()):
        flat = full_tensor(tensor).detach().cpu().contiguous().reshape(-1)
        flat = flat.clone() if shared else flat
        hasher.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
        hasher.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return hasher.hexdigest()


def _is_sharded(model: Model) -> bool:
    return any(is_sharded(module) for module in model.modules())


def _generate(plan: _Plan, store: TensorStore, batch_size: int) -> None:
    """Generate the examples whose features are not in the store; each process computes every n-th batch."""
    process, total = plan.process, len(plan.items)
    remaining = call_in_main(lambda: _remaining(plan, store), process)
    size = min(batch_size, -(-len(remaining) // process.world_size)) or 1
    batches = [remaining[start : start + size] for start in range(0, len(remaining), size)]
    # processes that share a model gather its blocks together, so that each needs as many steps as the others
    is_shared = process.world_size > 1 and _is_sharded(plan.pipeline.model)
    stride = 1 if is_shared and not _same_steps(plan) else process.world_size
    for start in range(0, len(batches), stride):
        plan.progress("generated", total - len(remaining) + start * size, total)
        own = batches[start : start + stride][process.rank % stride :][:1]
        _generate_round(plan, store, own or batches[-1:] if is_shared else own)
    plan.progress("generated", total, total)


def _generate_round(plan: _Plan, store: TensorStore, own: Sequence[Sequence[int]]) -> None:
    """Generate this process's batches; the first process puts those of all processes into the store."""
    shares = gather_results(lambda: [_generate_batch(plan, indices) for indices in own], plan.process)

    def put() -> None:
        for name, entry in {name: entry for share in shares for name, entry in share}.items():
            store.put(name, entry.tensors, entry.metadata)

    call_in_main(put, plan.process)


def _generate_batch(plan: _Plan, indices: Sequence[int]) -> tuple[str, StoredTensors]:
    """Return the name, features and metadata of a batch of examples."""
    begin = time.perf_counter()
    outputs = plan.pipeline([plan.requests[index] for index in indices], batch_size=len(indices))
    seconds = time.perf_counter() - begin
    data = [output.data for output in outputs]
    tensors = {f"features.{key}": extractor(data) for key, extractor in plan.feature_extractors.items()}
    tensors |= {f"data.{index}": item for index, item in zip(indices, data, strict=True) if index < NUM_PREVIEWS}
    metadata = {key: outputs[0].metadata[key] for key in ("nfe", "settings")}
    name = TensorStore.make_name(json.dumps([sorted(plan.feature_extractors), list(indices)]))[:8]
    tensors = {"indices": torch.tensor(indices), **tensors}
    return f"{indices[0]:06d}-{name}", StoredTensors(tensors, {**metadata, "generation_seconds": seconds})


def _same_steps(plan: _Plan) -> bool:
    """Return whether every batch takes as many evaluations of the model."""
    model, registry = plan.pipeline.model, plan.pipeline.registry
    is_adaptive = resolve_sampling(model, registry, plan.requests[0]).solver.adaptive
    return not is_adaptive and len({batch_key(request) for request in plan.requests}) == 1


def _remaining(plan: _Plan, store: TensorStore) -> list[int]:
    """Return the indices of the items whose features are not in a store."""
    completed: set[int] = set()
    for batch in store.entries():
        if all(f"features.{key}" in batch.tensors for key in plan.feature_extractors):
            completed |= set(batch.tensors["indices"].tolist())
    return [index for index in range(len(plan.items)) if index not in completed]


def _compute_scores(
    plan: _Plan, store: TensorStore, real: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, MetricValue]], list[str]]:
    """Compute the scores of every metric, and the remarks of the metrics."""
    eval_set = plan.eval_set
    group_labels = [eval_set.groups(index) for index in range(len(eval_set))]
    scores: dict[str, dict[str, MetricValue]] = {}
    notes: list[str] = []
    for number, (name, metric) in enumerate(plan.metrics.items()):
        plan.progress("compared", number, len(plan.metrics))
        key = metric.feature_extractor.key
        generated = _gather_features(store, key, len(plan.items))
        inputs = EvalInputs(generated, real[key], plan.items, plan.references, eval_set.families)
        scores[name] = aggregate(metric, inputs, group_labels)
        notes += metric.notes(inputs)
    plan.progress("compared", len(plan.metrics), len(plan.metrics))
    return scores, notes


def _real_features(plan: _Plan, extractor: FeatureExtractor, cache: TensorStore, digest: str) -> Tensor:
    """Return the features of all real examples in the first process, elsewhere none; all compute a share of them."""
    eval_set, process, name = plan.eval_set, plan.process, TensorStore.make_name(digest, extractor.key)
    features = torch.zeros(0)
    with suppress(CheckpointError):  # a damaged file is replaced
        cached = cache.get(name)
        features = features if cached is None else cached.tensors["features"]
    if call_in_main(lambda: len(features) == len(eval_set), process):
        return features
    rows: list[tuple[int, Tensor]] = []
    stage = f"real examples, {extractor.name}"
    for start in range(REAL_CHUNK * process.rank, len(eval_set), REAL_CHUNK * process.world_size):
        plan.progress(stage, start, len(eval_set))
        chunk = range(start, min(start + REAL_CHUNK, len(eval_set)))
        rows.append((start, extractor([eval_set.reference(index) for index in chunk])))
    plan.progress(stage, len(eval_set), len(eval_set))
    shares = gather_results(lambda: rows, process)
    if process.is_main:
        chunks = sorted((row for share in shares for row in share), key=lambda row: row[0])
        features = torch.cat([chunk for _, chunk in chunks])
    call_in_main(lambda: cache.put(name, {"features": features}), process)
    return features


def _gather_features(store: TensorStore, key: str, count: int) -> Tensor:
    """Return the features (count, D) of all generated examples by one feature extractor."""
    batches = [batch.tensors for batch in store.entries() if f"features.{key}" in batch.tensors]
    first = batches[0][f"features.{key}"]
    features = torch.empty(count, first.shape[1], dtype=first.dtype)
    for tensors in batches:
        features[tensors["indices"]] = tensors[f"features.{key}"]
    return features


def _previews(plan: _Plan, store: TensorStore) -> list[Tensor]:
    """Return the first generated examples, each followed by its real one."""
    generated = {
        int(key.removeprefix("data.")): data
        for batch in store.entries()
        for key, data in batch.tensors.items()
        if key.startswith("data.")
    }
    return [
        item
        for index in sorted(generated)
        for item in (generated[index], plan.eval_set.reference(plan.items[index].target_index))
    ]
