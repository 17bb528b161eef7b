"""Contract checks of tasks, data sets, metrics, feature extractors and checkpoint formats."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint, Weights, read_tensor
from lumina_core.errors import LuminaError
from lumina_core.model_dir import write_export
from lumina_core.protocols import (
    CheckpointFormat,
    Dataset,
    EvalInputs,
    EvalItem,
    FeatureExtractor,
    GenerationTask,
    Metric,
    PredictionTask,
)
from lumina_core.recipe import read_recipe
from lumina_core.request import Request
from lumina_core.testing._contract import (
    Contract,
    ViolationError,
    expect,
    expect_close,
    expect_equal,
    expect_equal_nested,
    expect_tensor,
    randn,
    reseed_globals,
)
from lumina_core.testing._tiny_model import HIDDEN_SIZE, FakeConditioner, check_in_model

NUM_EXAMPLES = 4
"""Number of examples of a data set that are read."""
CROP_SIZE = 6
"""Side of the corner of an example that the tiny model is trained on."""


def check_task(task: GenerationTask | PredictionTask, fields: Mapping[str, Any], channels: int = 3) -> None:
    """Check every clause of `GenerationTask`, from a request to an atomically written file; or of `PredictionTask`.

    Args:
        task: the task.
        fields: fields of a small request, such as {"prompt": "a red heart", "size": (16, 16)}.
        channels: channels of the data.

    Raises:
        ContractError: a clause is violated.
    """
    if isinstance(task, PredictionTask):
        _check_prediction_task(task, fields, channels)
        return
    contract = Contract("GenerationTask", task)
    with contract.clause("the class inherits lumina_core.protocols.GenerationTask"):
        expect(isinstance(task, GenerationTask), f"bases {[base.__name__ for base in type(task).__mro__[1:]]}")
    with contract.clause("Request is a subclass of lumina_core.request.Request, and reads the fields"):
        expect(isinstance(task.Request, type) and issubclass(task.Request, Request), f"{task.Request!r}")
        request: Any = task.Request.read(fields, "the sample")
    with contract.clause("data_field is the name of the field of an example that is generated"):
        expect(isinstance(task.data_field, str) and task.data_field, f"{task.data_field!r}")
    with contract.clause("size(request) returns the data size: positive integers, without batch and channels"):
        size = task.size(request)
        expect(isinstance(size, tuple) and size and all(isinstance(n, int) and n > 0 for n in size), f"{size!r}")
    with contract.clause("conditions(request) and negative_conditions(request) return lists of one value by field"):
        for conditions in (task.conditions(request), task.negative_conditions(request)):
            expect(isinstance(conditions, Mapping), f"{type(conditions).__name__} instead of a mapping")
            invalid = [field for field, value in conditions.items() if isinstance(value, str) or len(value) != 1]
            expect(not invalid, f"no list of one value for {invalid}")
    item = randn(channels, *size).clamp(-1, 1)
    with tempfile.TemporaryDirectory() as temp_dir:
        folder = Path(temp_dir)
        _check_saving(contract, task, item, folder)
        with contract.clause("save_grid(items, folder, name) writes one file in the folder and returns its path"):
            path = task.save_grid([item, -item], folder / "grid", "00001")
            names = sorted(file.name for file in (folder / "grid").iterdir())
            expect(path.parent == folder / "grid" and names == [path.name], f"{path}, and the files {names}")
    requests = [
        request.model_copy(update={"seed": seed, request.results_field: 1, "steps": None, "guidance_scale": None})
        for seed in (1, 2)
    ]
    names = list(dict.fromkeys((*task.conditions(request), *task.negative_conditions(request)))) or ["cond"]
    values = {name: 2 * [*task.conditions(request).get(name, [None])] for name in names}
    conditioners = {name: FakeConditioner(HIDDEN_SIZE, 0) for name in names}
    data = randn(2, channels, *size)
    check_in_model(contract, data=data, values=values, task=task, conditioners=conditioners, requests=requests)


def _check_saving(contract: Contract, task: GenerationTask, item: Tensor, folder: Path) -> None:
    suffix = task.suffixes[0] if task.suffixes else ".out"
    first, second = (folder / f"{name}{suffix}" for name in ("first", "second"))
    with contract.clause("save(item, path, metadata) writes that one file"):
        task.save(item, first, {"seed": 1})
        names = sorted(file.name for file in folder.iterdir())
        expect(names == [first.name] and first.stat().st_size > 0, f"the files {names}")
    with contract.clause("encode(item, format, metadata) returns the content of that file"):
        content = task.encode(item, suffix, {"seed": 1})
        expect(content == first.read_bytes(), f"{len(content)} other bytes")
    with contract.clause("the content depends on item and metadata alone, and holds the metadata"):
        task.save(item, second, {"seed": 1})
        expect(second.read_bytes() == first.read_bytes(), "other bytes for the same metadata")
        task.save(item, second, {"seed": 2})
        expect(second.read_bytes() != first.read_bytes(), "the same bytes for other metadata")
    with contract.clause("a file is written atomically (lumina_core.io.atomic_file)"):
        inode = second.stat().st_ino
        task.save(item, second, {"seed": 3})
        # a file that is moved into place has another inode than the one that it replaces
        expect(second.stat().st_ino != inode, f"{second.name} written in place, so that a crash truncates it")
        before = second.read_bytes()
        with suppress(Exception):
            task.save(item, second, {"seed": 3, "invalid": _Unserializable()})
        expect(len(second.read_bytes()) >= len(before), "a file truncated by a failure")
        leftovers = sorted({file.name for file in folder.iterdir()} - {first.name, second.name})
        expect(not leftovers, f"a failure that leaves {leftovers}")


class _Unserializable:
    """Metadata that no format can hold."""

    def __repr__(self) -> str:
        raise RuntimeError("not serializable")

    __str__ = __repr__


def _check_prediction_task(task: PredictionTask, fields: Mapping[str, Any], channels: int) -> None:
    """Check every clause of `PredictionTask`, from a request to an answer for logits of 5 classes."""
    contract = Contract("PredictionTask", task)
    with contract.clause("data_field and target_field are different names"):
        expect(
            bool(task.data_field) and task.data_field != task.target_field, f"{task.data_field}, {task.target_field}"
        )
    with contract.clause("Request reads the fields, and refuses an unknown one with a ConfigError"):
        request = task.Request.read(fields, "the sample")
        refused = False
        try:
            task.Request.read({**fields, "no_such_field": 1}, "the sample")
        except LuminaError:
            refused = True
        expect(refused, "an unknown field was read")
    with contract.clause("data(request) is finite, (channels, ...) in about [-1, 1]"):
        data = task.data(request)
        expect(data.shape[0] == channels and data.ndim > 1, f"the shape {tuple(data.shape)}")
        expect(bool(torch.isfinite(data).all()) and float(data.abs().max()) <= 1.5, "values beyond 1.5, or NaN")
    with contract.clause("conditions(request) has one value per field"):
        expect(all(len(values) == 1 for values in task.conditions(request).values()), f"{task.conditions(request)}")
    with contract.clause("answer(prediction, request) is the same for the same prediction, and JSON can hold it"):
        logits = torch.tensor([0.0, 3.0, 1.0, -2.0, 0.5])
        first, again = task.answer(logits, request), task.answer(logits.clone(), request)
        expect(first == again, f"{first} and {again}")
        json.dumps(first)


def check_dataset(dataset: Dataset, data_field: str | None = None, fields: tuple[str, ...] = ()) -> None:
    """Check every clause of `Dataset`.

    Args:
        dataset: the data set.
        data_field: field of the data in [-1, 1]; None: the first floating tensor.
        fields: fields whose `values` can be listed.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("Dataset", dataset)
    with contract.clause("the class inherits lumina_core.protocols.Dataset"):
        expect(isinstance(dataset, Dataset), f"bases {[base.__name__ for base in type(dataset).__mro__[1:]]}")
    with contract.clause("len(dataset) is at least 1"):
        expect(len(dataset) > 0, f"{len(dataset)}")
    step = max(1, len(dataset) // NUM_EXAMPLES)
    indices = sorted({0, len(dataset) - 1, *range(0, len(dataset), step)})[:NUM_EXAMPLES]
    with contract.clause("get(index, rng) returns a mapping with the same fields for every index, data in [-1, 1]"):
        examples = [dataset.get(index, random.Random(index)) for index in indices]
        name = data_field or _first_tensor(examples[0])
        for example in examples:
            _check_example(example, examples[0], name)
    data = [example[name] for example in examples]
    with contract.clause(
        "an example depends on its index and `rng` alone: not on global random numbers or other reads"
    ):
        for seed in (3, 4):
            with reseed_globals(seed):
                for index, example in reversed(list(zip(indices, examples, strict=True))):
                    reread = dataset.get(index, random.Random(index))
                    expect_equal_nested(dict(reread), dict(example), f"example {index} read again")
    with contract.clause("size(index, rng) is () or the shape of the data; if sizes differ, variable_size is true"):
        sizes = [dataset.size(index, random.Random(index)) for index in indices]
        for size, item in zip(sizes, data, strict=True):
            expect(size in ((), tuple(item.shape[1:])), f"{size} for data of the shape {tuple(item.shape)}")
        expect(dataset.variable_size or len(set(sizes)) == 1, f"variable_size False for the sizes {sizes}")
    with contract.clause("weight(index) is a finite number above 0"):
        weights = [dataset.weight(index) for index in indices]
        expect(all(math.isfinite(weight) and weight > 0 for weight in weights), f"{weights}")
    with contract.clause("read_groups() is empty or sums to the number of examples"):
        groups = list(dataset.read_groups())
        expect(not groups or sum(groups) == len(dataset), f"{sum(groups)} of {len(dataset)} examples")
    for field in fields:
        with contract.clause("values(field) returns each value once, in a fixed order"):
            values = list(dataset.values(field))
            expect(len(set(values)) == len(values), f"{len(values) - len(set(values))} values of '{field}' twice")
            expect(values and list(dataset.values(field)) == values, f"no or other values of '{field}'")
    if len(indices) > 1 and all(item.shape == data[0].shape for item in data):
        # a corner is enough to train on, and fast
        corner = torch.stack(data)[(slice(None), slice(None), *(slice(CROP_SIZE) for _ in data[0].shape[1:]))]
        check_in_model(contract, data=corner, dataset=dataset)


def _check_example(example: Any, first: Any, data_field: str) -> None:
    expect(isinstance(example, Mapping), f"{type(example).__name__} instead of a mapping")
    expect(set(example) == set(first), f"the fields {sorted(example)} of one example, {sorted(first)} of another")
    data = example.get(data_field)
    is_floating = isinstance(data, Tensor) and data.is_floating_point()
    expect(is_floating, f"no floating tensor '{data_field}' among the fields {sorted(example)}")
    expect_tensor(data, tuple(data.shape), f"'{data_field}'")
    expect(float(data.abs().max()) <= 1 + 1e-6, f"'{data_field}' with numbers up to {float(data.abs().max()):.3g}")


def _first_tensor(example: Mapping[str, Any]) -> str:
    return next((n for n, value in example.items() if isinstance(value, Tensor) and value.is_floating_point()), "")


def check_feature_extractor(extractor: FeatureExtractor, data: Tensor) -> None:
    """Check every clause of `FeatureExtractor`.

    Args:
        extractor: the feature extractor.
        data: (B, channels, ...) in [-1, 1], at least two different items.

    Raises:
        ContractError: a clause is violated.
    """
    contract, items = Contract("FeatureExtractor", extractor), list(data)
    with contract.clause("the class inherits lumina_core.protocols.FeatureExtractor, with a name and a key"):
        expect(isinstance(extractor, FeatureExtractor), f"bases {[b.__name__ for b in type(extractor).__mro__[1:]]}")
        labels = [word for word in (extractor.name, extractor.key) if isinstance(word, str) and word]
        expect(len(labels) == 2, f"{extractor.name!r} and {extractor.key!r}")
    with contract.clause("B items give (B, D) finite numbers on the CPU"):
        rows = extractor(items)
        expect_tensor(rows, (len(items), None), "the features")
        expect(rows.device.type == "cpu", f"features on {rows.device}")
    with contract.clause("the same items give the same features, without random numbers"), reseed_globals(5):
        expect_equal(extractor(items), rows, "the second result")
    with contract.clause("each item alone determines its row, whatever the other items and their order"):
        for index, item in enumerate(items):
            expect_close(extractor([item])[0], rows[index], f"item {index} alone")
        expect_close(extractor(items[::-1]), rows.flip(0), "the rows of the items in reverse")
    with contract.clause("different items have different features"):
        expect(not torch.equal(rows[0], rows[1]), "the same row for the first two items")


def check_metric(metric: Metric, data: Tensor, fields: Sequence[Mapping[str, Any]] = ()) -> None:
    """Check every clause of `Metric`, and those of its feature extractor.

    Args:
        metric: the metric.
        data: (B, channels, ...) in [-1, 1], at least two different items: the real examples.
        fields: fields of each example, for a metric that reads them.

    Raises:
        ContractError: a clause is violated.
    """
    check_feature_extractor(metric.feature_extractor, data)
    contract = Contract("Metric", metric)
    with contract.clause("the class inherits lumina_core.protocols.Metric, with a name and a positive min_samples"):
        expect(isinstance(metric, Metric), f"bases {[base.__name__ for base in type(metric).__mro__[1:]]}")
        is_valid = isinstance(metric.name, str) and isinstance(metric.min_samples, int) and metric.min_samples > 0
        expect(is_valid, f"{metric.name!r} and {metric.min_samples!r}")
    real = metric.feature_extractor(list(data))
    rows = torch.arange(max(metric.min_samples, 2 * len(real))) % len(real)
    noise = 0.3 * real.std(dim=0, keepdim=True).nan_to_num(1.0) * randn(len(rows), real.shape[1])
    items = [EvalItem(fields[row] if fields else {}, row) for row in rows.tolist()]
    inputs = EvalInputs(real[rows] + noise, real, items, torch.arange(len(real)))
    with contract.clause("compute(inputs) returns by name a float for all items, or a number per item (M,)"):
        values = metric.compute(inputs)
        expect(isinstance(values, Mapping) and values, f"{type(values).__name__} of {len(values)} scores")
        for name, value in values.items():
            expect(isinstance(value, float | Tensor), f"'{name}' is {type(value).__name__}")
            shape = tuple(torch.as_tensor(value).shape)
            expect(not isinstance(value, Tensor) or shape == (len(items),), f"'{name}' has the shape {shape}")
    with contract.clause("the same inputs give the same scores, without random numbers"), reseed_globals(5):
        _expect_close_scores(metric.compute(inputs), values)
    with contract.clause("the scores do not depend on the order of the items"):
        flipped = metric.compute(inputs.subset(range(len(items))[::-1]))
        _expect_close_scores({n: v.flip(0) if isinstance(v, Tensor) else v for n, v in flipped.items()}, values)


def _expect_close_scores(got: Mapping[str, Tensor | float], expected: Mapping[str, Tensor | float]) -> None:
    expect(set(got) == set(expected), f"the scores {sorted(got)} instead of {sorted(expected)}")
    for name, value in expected.items():
        first, second = torch.as_tensor(got[name]).double(), torch.as_tensor(value).double()
        expect(torch.equal(first.isnan(), second.isnan()), f"'{name}' with NaN for other items")
        expect_close(first.nan_to_num(), second.nan_to_num(), f"'{name}'", tolerance=1e-3)


def check_checkpoint_format(checkpoint_format: CheckpointFormat, folder: Path) -> None:
    """Check every clause of `CheckpointFormat`.

    Args:
        checkpoint_format: the format.
        folder: a small model of this format; it is only read.

    Raises:
        ContractError: a clause is violated.
    """
    contract, before = Contract("CheckpointFormat", checkpoint_format), _file_sizes(folder)
    with tempfile.TemporaryDirectory() as temp_dir:
        empty, exported, truncated = (Path(temp_dir) / name for name in ("empty", "exported", "truncated"))
        empty.mkdir()
        exported.mkdir()
        with contract.clause("matches(folder) is True for a folder of this format, False for any other"):
            expect(checkpoint_format.matches(folder) is True, "not True for the sample")
            expect(checkpoint_format.matches(empty) is False, "not False for an empty folder")
        with contract.clause("load(folder) returns a recipe, and weights that are read later"):
            loaded = checkpoint_format.load(folder)
            expect(isinstance(loaded, LoadedCheckpoint), f"{type(loaded).__name__} instead of LoadedCheckpoint")
            read_recipe(dict(loaded.recipe), "the format's")
            expect(loaded.weights, "no weights")
        with contract.clause("export(model) is the exact inverse: the result loads with the same recipe and weights"):
            write_export(checkpoint_format.export(loaded), exported)
            expect(checkpoint_format.matches(exported), "a folder that does not match")
            _expect_same_checkpoint(checkpoint_format.load(exported), loaded)
        with contract.clause("load raises a CheckpointError for an incomplete folder"):
            shutil.copytree(exported, truncated)
            files = [file for file in truncated.rglob("*") if file.is_file()]
            largest = max(files, key=lambda file: file.stat().st_size)
            largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
            try:
                checkpoint_format.load(truncated)
            except LuminaError:
                pass
            else:
                raise ViolationError(f"no error with half of {largest.name}")
        with contract.clause("load leaves the folder unchanged"):
            expect(_file_sizes(folder) == before, "other files than before")


def _file_sizes(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _expect_same_checkpoint(got: LoadedCheckpoint, expected: LoadedCheckpoint) -> None:
    _expect_same_weights(got.weights, expected.weights)
    _expect_same_weights(got.extra_tensors, expected.extra_tensors)
    for key in set(got.recipe) | set(expected.recipe):
        first, second = got.recipe.get(key), expected.recipe.get(key)
        # paths to external files differ from folder to folder
        has_paths = isinstance(second, list | tuple) or (isinstance(second, dict) and "source" in second)
        expect(has_paths or first == second, f"the recipe's {key} is {first!r:.80} instead of {second!r:.80}")


def _expect_same_weights(got: Weights, expected: Weights) -> None:
    expect(set(got) == set(expected), f"other tensors: {sorted(set(got) ^ set(expected))[:3]}")
    for name, tensor in expected.items():
        expect_equal(read_tensor(got[name]), read_tensor(tensor), name)
