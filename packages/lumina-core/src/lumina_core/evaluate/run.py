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
from lumina_core.evaluate.exam import drawn, languages_of, population, seeds, split_of
from lumina_core.evaluate.figures import Figure, figures
from lumina_core.evaluate.kept import Cache, Kept, Part
from lumina_core.judging import Case, Exam, Features, Judged, Metric
from lumina_core.request import Request
from lumina_core.session import Session

SHOWN = 32
"""Pairs on the sheet that is to be looked at."""

Watch = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True)
class Asked:
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
    each: int = 1
    seed: int = 0
    languages: Sequence[str] = ()
    split: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 50
    out: Path | None = None
    resume: bool = False
    cache: Path | None = None


@dataclass(frozen=True)
class Judgement:
    """What was found: figures by metric and name, what was asked, and a few of those made beside the real ones."""

    figures: Mapping[str, Mapping[str, Figure]]
    cases: Sequence[Case]
    seeds: Sequence[int]
    split: str
    languages: Sequence[str | None]
    records: Sequence[Mapping[str, Any]]
    shown: Sequence[Tensor]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Plan:
    """Everything that is settled before the first thing is made."""

    session: Session
    exam: Exam
    metrics: Mapping[str, Metric]
    asked: Asked
    split: str
    languages: Sequence[str | None]
    cases: Sequence[Case]
    requests: Sequence[Request]

    @property
    def features(self) -> dict[str, Features]:
        """Each once, however many metrics look through it."""
        return {metric.features.key: metric.features for metric in self.metrics.values()}


def evaluate(
    session: Session,
    exam: Exam,
    metrics: Mapping[str, Metric],
    asked: Asked,
    watch: Watch = lambda what, done, total: None,
    fingerprint: str = "",
) -> Judgement:
    """Judge a model.

    Args:
        fingerprint: of the model's weights; a folder goes on only with the model that it was begun with.

    Raises:
        ConfigError: the exam does not know what is asked for, the model cannot be asked so or judged by a metric, or
            a folder cannot be written to.
    """
    plan = _planned(session, exam, metrics, asked)
    _check(plan)
    kept = Kept(asked.out)
    digest = exam.digest()
    kept.begin(_identity(plan, digest, fingerprint), asked.resume)
    cache = Cache(asked.cache if asked.cache is not None or asked.out is None else asked.out / "references")
    _make(plan, kept, watch)  # first, for it is what can go wrong
    real = {key: _references(exam, features, cache, digest, watch) for key, features in plan.features.items()}
    return _judged(plan, kept, real, watch)


def _planned(session: Session, exam: Exam, metrics: Mapping[str, Metric], asked: Asked) -> _Plan:
    split, languages = split_of(exam, asked.split), languages_of(exam, asked.languages)
    once = drawn(exam, split, languages, asked.samples, asked.seed)
    cases = [case for case in once for _ in range(asked.each)]
    numbers = seeds(len(once) // len(languages), len(languages), asked.each, asked.seed)
    requests = [_request(session, case, number, asked.settings) for case, number in zip(cases, numbers, strict=True)]
    return _Plan(session, exam, metrics, asked, split, languages, cases, requests)


def _request(session: Session, case: Case, seed: int, settings: Mapping[str, Any]) -> Request:
    task = session.model.task
    if not hasattr(task, "asked"):
        raise ConfigError(
            f"models for {session.model.recipe.task.use} cannot be judged: the task does not say how to ask for an "
            "example (it has no method `asked`)"
        )
    return session.request(**task.asked(case.said), **{**settings, "seed": seed})


def countable(exam: Exam, asked: Asked) -> int:
    """How many things will be made, or how many real ones there are, whichever is fewer."""
    there, languages = len(exam.places(split_of(exam, asked.split))), len(languages_of(exam, asked.languages))
    return min(min(asked.samples, there) * asked.each * languages, there)


def _check(plan: _Plan) -> None:
    """Nothing is made for a metric that could not tell a figure of it."""
    count = countable(plan.exam, plan.asked)
    for name, metric in plan.metrics.items():
        if count < metric.least:
            raise ConfigError(
                f"{name} needs at least {metric.least} things made and as many real ones, here are {count}; "
                "ask for more with --samples, or for another metric with --metrics"
            )
    for features in plan.features.values():
        features([plan.exam.reference(0)])


def _identity(plan: _Plan, digest: str, fingerprint: str) -> dict[str, Any]:
    asked = plan.asked
    return {
        "model": fingerprint,
        "data": digest,
        "split": plan.split,
        "languages": list(plan.languages),
        "samples": asked.samples,
        "each": asked.each,
        "seed": asked.seed,
        "settings": {key: str(value) for key, value in sorted(asked.settings.items())},
    }


def _references(exam: Exam, features: Features, cache: Cache, digest: str, watch: Watch) -> Tensor:
    found = cache.get(digest, features.key)
    if found is not None and len(found) == len(exam):
        return found
    rows: list[Tensor] = []
    step, what = 64, f"real ones, {features.name}"
    for start in range(0, len(exam), step):
        watch(what, start, len(exam))
        rows.append(features([exam.reference(i) for i in range(start, min(start + step, len(exam)))]))
    watch(what, len(exam), len(exam))
    found = torch.cat(rows)
    cache.put(found, digest, features.key)
    return found


def _make(plan: _Plan, kept: Kept, watch: Watch) -> None:
    done, total = kept.done(list(plan.features)), len(plan.cases)
    left = [place for place in range(total) if place not in done]
    for start in range(0, len(left), plan.asked.batch):
        watch("made", total - len(left) + start, total)
        kept.add(_part(plan, left[start : start + plan.asked.batch]))
    watch("made", total, total)


def _part(plan: _Plan, places: Sequence[int]) -> Part:
    began = time.perf_counter()
    answers = plan.session.ask_all([plan.requests[place] for place in places])
    seconds = time.perf_counter() - began
    data = [answer.data for answer in answers]
    found = {key: features(data) for key, features in plan.features.items()}
    shown = {place: answer.data for place, answer in zip(places, answers, strict=True) if place < SHOWN}
    record = {key: answers[0].record[key] for key in ("evaluations", "settings")}
    return Part(places, found, shown, {**record, "seconds": seconds})


def _judged(plan: _Plan, kept: Kept, real: Mapping[str, Tensor], watch: Watch) -> Judgement:
    exam, cases = plan.exam, plan.cases
    groups = [exam.groups(index) for index in range(len(exam))]
    told: dict[str, dict[str, Figure]] = {}
    notes = _notes(plan)
    for place, (name, metric) in enumerate(plan.metrics.items()):
        watch("compared", place, len(plan.metrics))
        key = metric.features.key
        made = kept.features(key, len(cases))
        judged = Judged(made, real[key], cases, population(exam, plan.split), exam.families)
        told[name] = figures(metric, judged, groups)
        notes += metric.notes(judged) if hasattr(metric, "notes") else []
    shown = [item for place, data in kept.data().items() for item in (data, exam.reference(cases[place].reference))]
    return Judgement(
        told, cases, [request.seed for request in plan.requests], plan.split, plan.languages,
        [part.record for part in kept.parts], shown, notes,
    )  # fmt: skip


def _notes(plan: _Plan) -> list[str]:
    there = len(plan.exam.places(plan.split))
    if there >= plan.asked.samples:
        return []
    return [f"the split '{plan.split}' has {there} examples, not {plan.asked.samples}: each is asked for once"]
