"""Evaluation of the toy modality: the same scores whatever the batches, interruptions and caches."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from core.toy import Signals, recipe, registry

from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.evaluation.eval_set import DatasetEvalSet
from lumina_core.evaluation.evaluate import BATCHES_DIR, evaluate
from lumina_core.model import build_model
from lumina_core.protocols import FeatureExtractor, Metric
from lumina_core.sampling.pipeline import Pipeline


class Sums(FeatureExtractor):
    """Features: sum and sum of squares of a signal; counts the items."""

    name = key = "sums"

    def __init__(self):
        self.num_items = 0

    def __call__(self, items):
        self.num_items += len(items)
        return torch.stack([torch.stack([item.sum(), item.square().sum()]) for item in items])


class Distance(Metric):
    """Metric: distance of each item from its target, and of the means of both sets."""

    name, min_samples = "distance", 3

    class Config(Settings):
        pass

    def __init__(self, config=None):
        self.feature_extractor = Sums()

    def compute(self, inputs):
        distance = (inputs.generated - inputs.real[inputs.target_index]).norm(dim=1).double()
        mean_distance = float((inputs.generated.mean(0) - inputs.real[inputs.reference_index].mean(0)).norm())
        return {"each": distance, "means": mean_distance, "never": torch.full((len(distance),), torch.nan)}


class BilingualEvalSet(DatasetEvalSet):
    """Two languages, one in capitals; a group per label."""

    languages, splits = ("soft", "loud"), ("all", "none")

    def indices(self, split):
        return range(len(self)) if split == "all" else ()

    def fields(self, index, language):
        word = super().fields(index, language)["word"].lower()
        return {"word": word.upper() if language == "loud" else word}

    def groups(self, index):
        return {"label": str(index % 3)}


EVAL_SET = BilingualEvalSet(Signals(Signals.Config(count=9)), "signal")


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    model = build_model(recipe("word"), registry()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return Pipeline(model, registry())


def evaluated(pipeline, eval_set=EVAL_SET, metric=None, **options):
    return evaluate(pipeline, eval_set, {"d": metric or Distance()}, **{"num_samples": 8, **options})


def to_json(result):
    return {name: figure.to_json() for name, figure in result.scores["d"].items()}


class InterruptedRunError(Exception):
    """Interruption of the process."""


def interrupt_after(after):
    def watch(what, done, total):
        if what == "generated" and done >= after:
            raise InterruptedRunError

    return watch


def test_scores_do_not_depend_on_the_batch_size(pipeline):
    small, large = (to_json(evaluated(pipeline, batch_size=batch))["each"] for batch in (3, 50))
    assert small["value"] == pytest.approx(large["value"], rel=1e-5)
    assert (small["low"], small["high"]) == pytest.approx((large["low"], large["high"]), rel=1e-5)


def test_a_setting_replaces_the_value_of_an_example(pipeline):
    assert evaluated(pipeline, word="low").report["num_generated"] == evaluated(pipeline).report["num_generated"]


def test_another_seed_gives_other_scores(pipeline):
    assert to_json(evaluated(pipeline, seed=1)) != to_json(evaluated(pipeline, seed=0))


def test_an_interrupted_evaluation_is_resumed_with_the_same_scores(pipeline, tmp_path):
    options = {"num_samples": 8, "batch_size": 3, "out": tmp_path / "evaluated"}
    with pytest.raises(InterruptedRunError):
        evaluate(pipeline, EVAL_SET, {"d": Distance()}, **options, progress=interrupt_after(6))
    assert len(list((tmp_path / "evaluated" / BATCHES_DIR).iterdir())) == 2
    (
        tmp_path / "evaluated" / BATCHES_DIR / ".000006.safetensors.lumina-4999999-12345678.partial.safetensors"
    ).write_bytes(b"half")
    metric = Distance()
    resumed = evaluated(pipeline, metric=metric, **options, resume=True)
    assert to_json(resumed) == to_json(evaluated(pipeline, batch_size=3))
    assert metric.feature_extractor.num_items == 1 + 2 + 9  # one reference, the remaining items, the real examples


def test_features_of_real_examples_are_cached_across_seeds(pipeline, tmp_path):
    evaluated(pipeline, out=tmp_path / "a", cache=tmp_path / "cache")
    metric = Distance()
    again = evaluated(pipeline, metric=metric, out=tmp_path / "b", cache=tmp_path / "cache", seed=3)
    assert metric.feature_extractor.num_items == 1 + 8
    assert to_json(again) == to_json(evaluated(pipeline, seed=3))


def test_other_real_examples_are_not_taken_from_the_cache(pipeline, tmp_path):
    evaluated(pipeline, cache=tmp_path)
    metric = Distance()
    evaluated(pipeline, DatasetEvalSet(Signals(Signals.Config(count=10)), "signal"), metric, cache=tmp_path)
    assert metric.feature_extractor.num_items == 1 + 10 + 8


def test_scores_have_groups_by_language_and_label_and_group_means(pipeline):
    each = evaluated(pipeline, num_samples=9, languages=("all",)).scores["d"]["each"]
    assert each.count == 18
    assert {key: sorted(result) for key, result in each.groups.items()} == {
        "language": ["loud", "soft"],
        "label": ["0", "1", "2"],
    }
    assert each.group_means()["language"] == pytest.approx(each.value)
    assert each.groups["language"]["soft"].value == pytest.approx(
        evaluated(pipeline, num_samples=9).scores["d"]["each"].value
    )


def test_a_score_of_a_set_compares_a_group_with_its_own_real_examples(pipeline):
    result = evaluated(pipeline, num_samples=9)
    real = Sums()([EVAL_SET.reference(place) for place in (0, 3, 6)]).mean(0)
    made = [place for place, case in enumerate(result.eval_items) if case.groups["label"] == "0"]
    features = Sums()([result.previews[2 * place] for place in made]).mean(0)
    assert result.scores["d"]["means"].groups["label"]["0"].value == pytest.approx(
        float((features - real).norm()), rel=1e-5
    )


def test_a_single_prompt_has_no_interval_whatever_the_number_of_samples(pipeline):
    result = evaluated(pipeline, num_samples=4, samples_per_prompt=2, seed=1)
    references = [{case.target_index for case in result.eval_items if case.groups["label"] == name} for name in "012"]
    label = result.scores["d"]["each"].groups["label"]
    alone = {str(n) for n, places in enumerate(references) if len(places) == 1}
    assert alone and {name for name, figure in label.items() if figure.interval is None} == alone


def test_a_score_that_applies_to_no_item_is_left_out(pipeline):
    assert set(evaluated(pipeline).scores["d"]) == {"each", "means"}


def test_samples_of_one_prompt_have_different_noise(pipeline):
    result = evaluated(pipeline, num_samples=4, samples_per_prompt=3, languages=("soft", "loud"))
    assert len(set(result.seeds)) == 12 and result.seeds[:12] == result.seeds[12:]
    assert [case.target_index for case in result.eval_items[:3]] == [result.eval_items[0].target_index] * 3


def test_previews_alternate_generated_and_real_examples(pipeline):
    result = evaluated(pipeline)
    assert (
        torch.equal(result.previews[1], EVAL_SET.reference(result.eval_items[0].target_index))
        and len(result.previews) == 16
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 2}, "got 2 generated and real examples, expected at least 3"),
        ({"languages": ("lout",)}, "did you mean 'loud'"),
        ({"split": "al"}, "did you mean 'all'"),
        ({"split": "none"}, "an empty split"),
        ({"solver": "midpont"}, "midpoint"),
    ],
)
def test_invalid_arguments_are_refused(pipeline, options, message):
    with pytest.raises(Exception, match=message):
        evaluated(pipeline, **options)


def test_examples_with_a_label_are_grouped_by_it(pipeline):
    result = evaluated(pipeline, DatasetEvalSet(Signals(Signals.Config(count=9)), "signal"), num_samples=9).scores["d"][
        "each"
    ]
    assert {name: figure.count for name, figure in result.groups["label"].items()} == {"0": 3, "1": 3, "2": 3}


def test_a_model_that_generates_nan_is_refused(pipeline):
    broken = Pipeline(copy.deepcopy(pipeline.model), pipeline.registry)
    with torch.no_grad():
        next(broken.model.head.parameters()).fill_(torch.nan)
    with pytest.raises(LuminaError, match=r"NaN|not a number|finite|no number"):
        evaluated(broken)


def test_examples_without_the_generated_field_are_refused(pipeline):
    with pytest.raises(ConfigError, match=r"got examples with the fields signal, label, word, expected 'shape'"):
        evaluated(pipeline, DatasetEvalSet(Signals(Signals.Config()), "shape"), num_samples=3)


def test_an_empty_data_set_is_refused(pipeline):
    class Nothing(Signals):
        def __len__(self):
            return 0

    with pytest.raises(ConfigError, match="dataset: got an empty one"):
        evaluate(pipeline, Nothing(Signals.Config()))


def test_a_folder_resumes_only_the_same_evaluation(pipeline, tmp_path):
    evaluated(pipeline, out=tmp_path)
    with pytest.raises(ConfigError, match="Set resume"):
        evaluated(pipeline, out=tmp_path)
    with pytest.raises(ConfigError, match="another seed"):
        evaluated(pipeline, out=tmp_path, resume=True, seed=5)


def test_a_truncated_batch_file_is_named(pipeline, tmp_path):
    evaluated(pipeline, out=tmp_path)
    part = next((tmp_path / BATCHES_DIR).iterdir())
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=part.name):
        evaluated(pipeline, out=tmp_path, resume=True)


def test_a_folder_that_cannot_be_created_is_refused(pipeline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Choose another folder"):
        evaluated(pipeline, out=tmp_path / "file" / "evaluated")


def test_the_configuration_is_written_to_the_folder(pipeline, tmp_path):
    evaluated(pipeline, out=tmp_path, steps=2)
    config = json.loads((tmp_path / "eval_config.json").read_text())
    assert (config["settings"], config["samples"], len(config["model"])) == ({"steps": "2"}, 8, 64)


class CountingEvalSet(BilingualEvalSet):
    num_digests = 0

    def digest(self):
        self.num_digests += 1
        return super().digest()


def test_the_real_examples_are_hashed_once(pipeline, tmp_path):
    eval_set = CountingEvalSet(Signals(Signals.Config(count=9)), "signal")
    evaluated(pipeline, eval_set, out=tmp_path)
    assert eval_set.num_digests == 1


def test_a_result_is_a_mapping_of_metrics_to_scores(pipeline):
    result = evaluate(pipeline, EVAL_SET, [Distance()], num_samples=4)
    assert list(result) == ["distance"] and result["distance"]["each"].value == result.scores["distance"]["each"].value
    assert result["distance"]["each"].value == pytest.approx(result.report["scores"]["distance"]["each"]["value"])
    assert result.report["model"]["sha256"] and result.report["dataset"]["num_real"] == 9


def test_a_dataset_is_a_name_a_recipe_an_object_or_dicts(pipeline):
    signals = Signals(Signals.Config(count=7))
    dicts = [signals.get(index, random.Random(index)) for index in range(7)]
    scores = [
        to_json(evaluate(pipeline, dataset, {"d": Distance()}, num_samples=4))
        for dataset in (None, "signals", "toy.signals", signals, dicts)
    ]
    assert all(score == scores[0] for score in scores)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("toy.signal", r"dataset: got 'toy.signal'.*did you mean 'toy.signals'"),
        (3, "dataset: got int, expected a lumina_core Dataset"),
        ([("a", "b")] * 4, r"dataset\[\d\]: got tuple, expected a dict"),
    ],
)
def test_an_unknown_dataset_is_refused(pipeline, dataset, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(pipeline, dataset, {"d": Distance()})


def test_a_misspelt_option_is_refused_with_the_nearest_one(pipeline):
    with pytest.raises(ConfigError, match=r"num_sample: got an unknown option, .* did you mean 'num_samples'"):
        evaluate(pipeline, EVAL_SET, [Distance()], num_sample=3)


def test_options_of_a_metric_that_is_not_computed_are_refused(pipeline):
    with pytest.raises(ConfigError, match=r"metric_options: got 'distanc'.*did you mean 'distance'"):
        evaluate(pipeline, EVAL_SET, [Distance()], metric_options={"distanc": {}})


@pytest.mark.parametrize("metrics", [[Distance(), Distance()], [3]])
def test_metrics_are_names_or_objects_each_once(pipeline, metrics):
    with pytest.raises(ConfigError, match=r"expected (each once|a name)"):
        evaluate(pipeline, EVAL_SET, metrics)


def test_a_damaged_cache_of_real_features_is_replaced(pipeline, tmp_path):
    first = evaluated(pipeline, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert to_json(evaluated(pipeline, cache=tmp_path)) == to_json(first)
