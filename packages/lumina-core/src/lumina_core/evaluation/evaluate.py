"""One evaluation from beginning to end: ask, keep features, compare. Can be killed at any point and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.evaluation.aggregate import MetricValue, aggregate
from lumina_core.evaluation.eval_set import noise_seeds, reference_index, resolve_languages, resolve_split, sample_items
from lumina_core.evaluation.store import EvalBatch, FeatureCache, ResultStore
from lumina_core.protocols import EvalInputs, EvalItem, EvalSet, FeatureExtractor, Metric
from lumina_core.request import Request
from lumina_core.sampling.pipeline import Pipeline

NUM_PREVIEWS = 32
"""Pairs on the sheet that is to be looked at."""

ProgressCallback = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True)
class EvalArgs:
    """What is to be found out, and how.

    Attributes:
        samples: examples that are asked for, in each language.
        each: how many are made for each, with noises of their own.
        languages: ("all",) for all; () for the usual one.
        settings: fields of every request: steps, solver, guidance and on.
        batch: how many are made at once; changes no figure beyond rounding.
        out: folder that keeps what is made, for `resume`; None keeps nothing.
        cache: folder that keeps features of the real examples; None: inside `out`.
    """

    samples: int = 500
    samples_per_prompt: int = 1
    seed: int = 0
    languages: Sequence[str] = ()
    split: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 50
    out: Path | None = None
    resume: bool = False
    cache: Path | None = None


@dataclass(frozen=True)
class EvalResult:
    """What was found: figures by metric and name, what was asked, and a few of those made beside the real ones."""

    scores: Mapping[str, Mapping[str, MetricValue]]
    items: Sequence[EvalItem]
    seeds: Sequence[int]
    split: str
    languages: Sequence[str | None]
    metadata: Sequence[Mapping[str, Any]]
    previews: Sequence[Tensor]
    notes: Sequence[str]


@dataclass(frozen=True)
class _EvalPlan:
    """Everything that is settled before the first thing is made."""

    pipeline: Pipeline
    eval_set: EvalSet
    metrics: Mapping[str, Metric]
    args: EvalArgs
    split: str
    languages: Sequence[str | None]
    items: Sequence[EvalItem]
    requests: Sequence[Request]

    @property
    def feature_extractors(self) -> dict[str, FeatureExtractor]:
        """Each once, however many metrics look through it."""
        return {metric.feature_extractor.key: metric.feature_extractor for metric in self.metrics.values()}


def evaluate(
    pipeline: Pipeline,
    eval_set: EvalSet,
    metrics: Mapping[str, Metric],
    args: EvalArgs,
    progress: ProgressCallback = lambda what, done, total: None,
    model_fingerprint: str = "",
) -> EvalResult:
    """Judge a model.

    Args:
        fingerprint: of the model's weights; a folder goes on only with the model that it was begun with.

    Raises:
        ConfigError: the exam does not know what is asked for, the model cannot be asked so or judged by a metric, or
            a folder cannot be written to.
    """
    plan = _make_plan(pipeline, eval_set, metrics, args)
    _check_plan(plan)
    store = ResultStore(args.out)
    digest = eval_set.digest()
    store.start(_plan_config(plan, digest, model_fingerprint), args.resume)
    cache = FeatureCache(args.cache if args.cache is not None or args.out is None else args.out / "reference_features")
    _generate(plan, store, progress)  # first, for it is what can go wrong
    real_features = {
        key: _real_features(eval_set, extractor, cache, digest, progress)
        for key, extractor in plan.feature_extractors.items()
    }
    return _compute_metrics(plan, store, real_features, progress)


def _make_plan(pipeline: Pipeline, eval_set: EvalSet, metrics: Mapping[str, Metric], args: EvalArgs) -> _EvalPlan:
    split, languages = resolve_split(eval_set, args.split), resolve_languages(eval_set, args.languages)
    unique_items = sample_items(eval_set, split, languages, args.samples, args.seed)
    items = [item for item in unique_items for _ in range(args.samples_per_prompt)]
    item_seeds = noise_seeds(len(unique_items) // len(languages), len(languages), args.samples_per_prompt, args.seed)
    requests = [
        _make_request(pipeline, item, item_seed, args.settings)
        for item, item_seed in zip(items, item_seeds, strict=True)
    ]
    return _EvalPlan(pipeline, eval_set, metrics, args, split, languages, items, requests)


def _make_request(pipeline: Pipeline, item: EvalItem, seed: int, settings: Mapping[str, Any]) -> Request:
    task = pipeline.model.generation_task
    return pipeline.make_request(**task.request_for(item.fields), **{**settings, "seed": seed})


def num_comparable(eval_set: EvalSet, args: EvalArgs) -> int:
    """How many things will be made, or how many real ones there are, whichever is fewer."""
    available, languages = (
        len(eval_set.indices(resolve_split(eval_set, args.split))),
        len(resolve_languages(eval_set, args.languages)),
    )
    return min(min(args.samples, available) * args.samples_per_prompt * languages, available)


def _check_plan(plan: _EvalPlan) -> None:
    """Nothing is made for a metric that could not tell a figure of it."""
    count = num_comparable(plan.eval_set, plan.args)
    for name, metric in plan.metrics.items():
        if count < metric.min_samples:
            raise ConfigError(
                f"{name} needs at least {metric.min_samples} things made and as many real ones, here are {count}; "
                "ask for more with --samples, or for another metric with --metrics"
            )
    for extractor in plan.feature_extractors.values():
        extractor([plan.eval_set.reference(0)])


def _plan_config(plan: _EvalPlan, digest: str, model_fingerprint: str) -> dict[str, Any]:
    args = plan.args
    return {
        "model": model_fingerprint,
        "data": digest,
        "split": plan.split,
        "languages": list(plan.languages),
        "samples": args.samples,
        "samples_per_prompt": args.samples_per_prompt,
        "seed": args.seed,
        "settings": {key: str(value) for key, value in sorted(args.settings.items())},
    }


def _real_features(
    eval_set: EvalSet, extractor: FeatureExtractor, cache: FeatureCache, digest: str, progress: ProgressCallback
) -> Tensor:
    features_found = cache.get(digest, extractor.key)
    if features_found is not None and len(features_found) == len(eval_set):
        return features_found
    rows: list[Tensor] = []
    step, what = 64, f"real ones, {extractor.name}"
    for start in range(0, len(eval_set), step):
        progress(what, start, len(eval_set))
        rows.append(extractor([eval_set.reference(i) for i in range(start, min(start + step, len(eval_set)))]))
    progress(what, len(eval_set), len(eval_set))
    features_found = torch.cat(rows)
    cache.put(features_found, digest, extractor.key)
    return features_found


def _generate(plan: _EvalPlan, store: ResultStore, progress: ProgressCallback) -> None:
    completed, total = store.completed(list(plan.feature_extractors)), len(plan.items)
    remaining = [index for index in range(total) if index not in completed]
    for start in range(0, len(remaining), plan.args.batch_size):
        progress("made", total - len(remaining) + start, total)
        store.add(_generate_batch(plan, remaining[start : start + plan.args.batch_size]))
    progress("made", total, total)


def _generate_batch(plan: _EvalPlan, indices: Sequence[int]) -> EvalBatch:
    start_time = time.perf_counter()
    outputs = plan.pipeline.generate([plan.requests[index] for index in indices])
    seconds = time.perf_counter() - start_time
    data = [output.data for output in outputs]
    features_by_key = {key: extractor(data) for key, extractor in plan.feature_extractors.items()}
    previews = {index: output.data for index, output in zip(indices, outputs, strict=True) if index < NUM_PREVIEWS}
    metadata = {key: outputs[0].metadata[key] for key in ("nfe", "settings")}
    return EvalBatch(indices, features_by_key, previews, {**metadata, "generation_seconds": seconds})


def _compute_metrics(
    plan: _EvalPlan, store: ResultStore, real_features: Mapping[str, Tensor], progress: ProgressCallback
) -> EvalResult:
    eval_set, items = plan.eval_set, plan.items
    groups = [eval_set.groups(index) for index in range(len(eval_set))]
    scores: dict[str, dict[str, MetricValue]] = {}
    notes = _collect_notes(plan)
    for metric_index, (name, metric) in enumerate(plan.metrics.items()):
        progress("compared", metric_index, len(plan.metrics))
        key = metric.feature_extractor.key
        generated = store.gather_features(key, len(items))
        inputs = EvalInputs(
            generated, real_features[key], items, reference_index(eval_set, plan.split), eval_set.families
        )
        scores[name] = aggregate(metric, inputs, groups)
        notes += metric.notes(inputs)
    previews = [
        item
        for metric_index, data in store.preview_data().items()
        for item in (data, eval_set.reference(items[metric_index].target_index))
    ]
    return EvalResult(
        scores, items, [request.seed for request in plan.requests], plan.split, plan.languages,
        [batch.metadata for batch in store.batches], previews, notes,
    )  # fmt: skip


def _collect_notes(plan: _EvalPlan) -> list[str]:
    available = len(plan.eval_set.indices(plan.split))
    if available >= plan.args.samples:
        return []
    return [f"the split '{plan.split}' has {available} examples, not {plan.args.samples}: each is asked for once"]
