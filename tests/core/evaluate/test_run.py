"""An evaluation of the toy modality: the same figures however it is cut, stopped and gone on with."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from core.toy import Signals, recipe, registry

from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.evaluate.exam import PlainExam, exam_of
from lumina_core.evaluate.kept import PARTS
from lumina_core.evaluate.run import Asked, evaluate
from lumina_core.model import build_model
from lumina_core.session import Session


class Sums:
    """Features: sum and sum of squares of a signal; counts what it looks at."""

    name = key = "sums"

    def __init__(self):
        self.seen = 0

    def __call__(self, items):
        self.seen += len(items)
        return torch.stack([torch.stack([item.sum(), item.square().sum()]) for item in items])


class Distance:
    """Metric: distance of each from the right one, and of the means of both sets."""

    name, least = "distance", 3

    def __init__(self):
        self.features = Sums()

    def figures(self, judged):
        away = (judged.made - judged.real[judged.right]).norm(dim=1).double()
        apart = float((judged.made.mean(0) - judged.real[judged.population].mean(0)).norm())
        return {"each": away, "means": apart, "never": torch.full((len(away),), torch.nan)}


class Spoken(PlainExam):
    """Two languages, of which one shouts; a group for each label."""

    languages, splits = ("soft", "loud"), ("all", "none")

    def places(self, split):
        return range(len(self)) if split == "all" else ()

    def said(self, index, language):
        word = super().said(index, language)["word"].lower()
        return {"word": word.upper() if language == "loud" else word}

    def groups(self, index):
        return {"label": str(index % 3)}


EXAM = Spoken(Signals(Signals.Config(count=9)), "signal")


@pytest.fixture(scope="module")
def session():
    torch.manual_seed(0)
    model = build_model(recipe("word"), registry()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return Session(model, registry())


def judged(session, exam=EXAM, metric=None, **asked):
    return evaluate(session, exam, {"d": metric or Distance()}, Asked(**{"samples": 8, **asked}), fingerprint="m")


def plain(judgement):
    return {name: figure.plain() for name, figure in judgement.figures["d"].items()}


class Killed(Exception):
    """What stands for the end of a process."""


def killer(after):
    def watch(what, done, total):
        if what == "made" and done >= after:
            raise Killed

    return watch


def test_the_size_of_a_batch_changes_no_figure(session):
    small, large = (plain(judged(session, batch=batch))["each"] for batch in (3, 50))
    assert small["value"] == pytest.approx(large["value"], rel=1e-5)
    assert (small["low"], small["high"]) == pytest.approx((large["low"], large["high"]), rel=1e-5)


def test_another_seed_asks_otherwise(session):
    assert plain(judged(session, seed=1)) != plain(judged(session, seed=0))


def test_an_evaluation_that_was_killed_goes_on_with_the_same_figures(session, tmp_path):
    asked = {"samples": 8, "batch": 3, "out": tmp_path / "judged"}
    with pytest.raises(Killed):
        evaluate(session, EXAM, {"d": Distance()}, Asked(**asked), killer(6), "m")
    assert len(list((tmp_path / "judged" / PARTS).iterdir())) == 2
    (tmp_path / "judged" / PARTS / ".000006.safetensors.12345678.partial.safetensors").write_bytes(b"half")
    metric = Distance()
    resumed = judged(session, metric=metric, **asked, resume=True)
    assert plain(resumed) == plain(judged(session, batch=3))
    assert metric.features.seen == 1 + 2 + 9  # a look at what a reference is, what had not been made, the real ones


def test_features_of_real_examples_are_kept_for_another_model_or_seed(session, tmp_path):
    judged(session, out=tmp_path / "a", cache=tmp_path / "cache")
    metric = Distance()
    again = judged(session, metric=metric, out=tmp_path / "b", cache=tmp_path / "cache", seed=3)
    assert metric.features.seen == 1 + 8
    assert plain(again) == plain(judged(session, seed=3))


def test_other_real_examples_are_looked_at_anew(session, tmp_path):
    judged(session, cache=tmp_path)
    metric = Distance()
    judged(session, PlainExam(Signals(Signals.Config(count=10)), "signal"), metric, cache=tmp_path)
    assert metric.features.seen == 1 + 10 + 8


def test_figures_are_told_for_every_language_and_group_and_their_mean(session):
    each = judged(session, samples=9, languages=("all",)).figures["d"]["each"]
    assert each.count == 18
    assert {key: sorted(found) for key, found in each.by.items()} == {
        "language": ["loud", "soft"],
        "label": ["0", "1", "2"],
    }
    assert each.means()["language"] == pytest.approx(each.value)
    assert each.by["language"]["soft"].value == pytest.approx(judged(session, samples=9).figures["d"]["each"].value)


def test_a_figure_of_a_set_compares_a_group_with_the_real_ones_of_that_group(session):
    found = judged(session, samples=9)
    real = Sums()([EXAM.reference(place) for place in (0, 3, 6)]).mean(0)
    made = [place for place, case in enumerate(found.cases) if case.groups["label"] == "0"]
    features = Sums()([found.shown[2 * place] for place in made]).mean(0)
    assert found.figures["d"]["means"].by["label"]["0"].value == pytest.approx(
        float((features - real).norm()), rel=1e-5
    )


def test_one_example_alone_has_no_bounds_however_often_it_is_made(session):
    found = judged(session, samples=4, each=2, seed=1)
    references = [{case.reference for case in found.cases if case.groups["label"] == name} for name in "012"]
    label = found.figures["d"]["each"].by["label"]
    alone = {str(n) for n, places in enumerate(references) if len(places) == 1}
    assert alone and {name for name, figure in label.items() if figure.interval is None} == alone


def test_what_applies_to_nothing_is_not_told(session):
    assert set(judged(session).figures["d"]) == {"each", "means"}


def test_several_of_each_have_noises_of_their_own(session):
    found = judged(session, samples=4, each=3, languages=("soft", "loud"))
    assert len(set(found.seeds)) == 12 and found.seeds[:12] == found.seeds[12:]
    assert [case.reference for case in found.cases[:3]] == [found.cases[0].reference] * 3


def test_made_and_real_stand_side_by_side(session):
    found = judged(session)
    assert torch.equal(found.shown[1], EXAM.reference(found.cases[0].reference)) and len(found.shown) == 16


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": 2}, "needs at least 3"),
        ({"languages": ("lout",)}, "did you mean 'loud'"),
        ({"split": "al"}, "did you mean 'all'"),
        ({"split": "none"}, "is empty"),
        ({"settings": {"solver": "midpont"}}, "midpoint"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(session, asked, message):
    with pytest.raises(Exception, match=message):
        judged(session, **asked)


def test_examples_with_a_label_are_told_by_class(session):
    found = judged(session, PlainExam(Signals(Signals.Config(count=9)), "signal"), samples=9).figures["d"]["each"]
    assert {name: figure.count for name, figure in found.by["label"].items()} == {"0": 3, "1": 3, "2": 3}


def test_a_model_that_makes_no_numbers_is_not_judged(session):
    broken = Session(copy.deepcopy(session.model), session.registry)
    with torch.no_grad():
        next(broken.model.head.parameters()).fill_(torch.nan)
    with pytest.raises(LuminaError, match="no number"):
        judged(broken)


def test_data_without_what_the_model_makes_is_told(session):
    with pytest.raises(ConfigError, match=r"makes 'shape'.*hold only: signal, label, word"):
        judged(session, PlainExam(Signals(Signals.Config()), "shape"), samples=3)


def test_an_empty_data_set_is_told():
    class Nothing(Signals):
        def __len__(self):
            return 0

    with pytest.raises(ConfigError, match="is empty"):
        exam_of(Nothing(Signals.Config()), "signal")


def test_a_folder_goes_on_only_with_what_was_begun_in_it(session, tmp_path):
    judged(session, out=tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        judged(session, out=tmp_path)
    with pytest.raises(ConfigError, match="another seed"):
        judged(session, out=tmp_path, resume=True, seed=5)


def test_a_part_cut_short_is_named(session, tmp_path):
    judged(session, out=tmp_path)
    part = next((tmp_path / PARTS).iterdir())
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=part.name):
        judged(session, out=tmp_path, resume=True)


def test_a_folder_that_cannot_be_made_is_a_line(session, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --out"):
        judged(session, out=tmp_path / "file" / "judged")


def test_what_was_asked_is_kept_beside_what_was_made(session, tmp_path):
    judged(session, out=tmp_path, settings={"steps": 2})
    kept = json.loads((tmp_path / "asked.json").read_text())
    assert (kept["settings"], kept["samples"], kept["model"]) == ({"steps": "2"}, 8, "m")
