"""Checks of what meets the outside: task and data set."""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint, Weights, read_tensor
from lumina_core.config import Config
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
    expect_finite,
    expect_shape,
    randn,
    reseed_globals,
)
from lumina_core.testing._tiny_model import HIDDEN_SIZE, FakeConditioner, check_in_model

NUM_EXAMPLES = 4
"""Examples of a data set that are read."""
CROP_SIZE = 6
"""Sides of the corner of an example that a small model is trained on."""


def check_task(task: GenerationTask, fields: Mapping[str, Any], channels: int = 3) -> None:
    """Try every line of the contract `Task`: from a request to a file that is whole or not there.

    Args:
        fields: those of a small request, for instance {"prompt": "a red heart", "size": (16, 16)}.
        channels: of the data that it saves.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Task", task)
    with contract.clause("Request is a child of lumina_core.request.Request, and reads what is asked"):
        is_request = (
            isinstance(task.Request, type) and issubclass(task.Request, Request) and issubclass(task.Request, Config)
        )
        expect(is_request, f"{task.Request!r}")
        request = task.Request.read(fields, "the sample")
    with contract.clause("the class inherits lumina_core.protocols.GenerationTask"):
        expect(isinstance(task, GenerationTask), f"bases: {[base.__name__ for base in type(task).__mro__[1:]]}")
    with contract.clause("data_field names the field of an example that is generated"):
        expect(isinstance(task.data_field, str) and task.data_field, f"{task.data_field!r}")
    with contract.clause(
        "size(request) gives the sizes of the data: whole numbers above 0, without batch and channels"
    ):
        size = task.size(request)
        is_valid = isinstance(size, tuple) and size and all(isinstance(s, int) and s > 0 for s in size)
        expect(is_valid, f"{size!r}")
    with contract.clause(
        "conditions(request) and negative_conditions(request) give one value a field, under names of conditioners"
    ):
        for conditions in (task.conditions(request), task.negative_conditions(request)):
            expect(isinstance(conditions, Mapping), f"{type(conditions).__name__} instead of a mapping")
            invalid_fields = [field for field, value in conditions.items() if isinstance(value, str) or len(value) != 1]
            expect(not invalid_fields, f"{invalid_fields} have not one value, in a list")
    item = randn(channels, *size).clamp(-1, 1)
    with tempfile.TemporaryDirectory() as folder:
        _check_saving(contract, task, item, Path(folder))
        with contract.clause("save_grid(items, folder, name) writes one file in the folder and gives its path"):
            path = task.save_grid([item, -item], Path(folder) / "grid", "00001")
            names = sorted(file.name for file in (Path(folder) / "grid").iterdir())
            expect(path.parent == Path(folder) / "grid" and names == [path.name], f"{path}, and in the folder {names}")
    _check_generation(contract, task, request, channels)


def _check_saving(contract: Contract, task: GenerationTask, item: Tensor, folder: Path) -> None:
    suffix = task.suffixes[0] if task.suffixes else ".out"
    path, second_path = folder / f"first{suffix}", folder / f"second{suffix}"
    with contract.clause("save(item, path, metadata) writes that one file"):
        task.save(item, path, {"seed": 1})
        expect([file.name for file in folder.iterdir()] == [path.name], f"{[file.name for file in folder.iterdir()]}")
        expect(path.stat().st_size > 0, "an empty file")
    with contract.clause("encode(item, format, metadata) returns the content of that file"):
        content = task.encode(item, suffix, {"seed": 1})
        expect(content == path.read_bytes(), f"{len(content)} other bytes")
    with contract.clause("the same item and metadata give the same bytes, other metadata others: it is in the file"):
        task.save(item, second_path, {"seed": 1})
        expect(second_path.read_bytes() == path.read_bytes(), "other bytes")
        task.save(item, second_path, {"seed": 2})
        expect(second_path.read_bytes() != path.read_bytes(), "the same bytes for other metadata")
    with contract.clause(
        "a file is whole or not there: written beside its place, then moved (lumina_core.io.atomic_file)"
    ):
        with _track_direct_writes(second_path) as opened_in_place:
            task.save(item, second_path, {"seed": 3})
        expect(
            not opened_in_place, f"{second_path.name} was opened for writing in its place, so a crash leaves half of it"
        )
        before = second_path.read_bytes()
        # a record that no format takes: whatever happens, the old file stays, or the new one is whole
        _save_unserializable(task, item, second_path, folder)
        expect(
            second_path.read_bytes() == before or second_path.stat().st_size >= len(before),
            "a file cut short by a failure",
        )
        leftovers = sorted({file.name for file in folder.iterdir()} - {path.name, second_path.name})
        expect(not leftovers, f"a failure leaves {leftovers}")


class _Unserializable:
    """What cannot be written in any form."""

    def __repr__(self) -> str:
        raise RuntimeError("no room")

    __str__ = __repr__


def _save_unserializable(task: GenerationTask, item: Tensor, path: Path, folder: Path) -> None:
    metadata = {"seed": 3, "broken": _Unserializable()}
    for target in (path, folder / f"third{path.suffix}"):
        try:
            task.save(item, target, metadata)
        except Exception:
            continue
        (folder / f"third{path.suffix}").unlink(missing_ok=True)  # it takes what no format takes: then it is whole


_opened_paths: dict[str, list[str]] = {}
_WRITE_MODES = ("w", "a", "x", "+")


def _audit_hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _opened_paths and isinstance(args[0], str) and args[0] in _opened_paths:
        mode, flags = args[1], args[2]
        writes = any(letter in mode for letter in _WRITE_MODES) if isinstance(mode, str) else bool((flags or 0) & 3)
        if writes:
            _opened_paths[args[0]].append(str(mode))


@contextmanager
def _track_direct_writes(path: Path) -> Iterator[list[str]]:
    """Collects each time that this very path is opened for writing; Python has no way to take an audit hook out."""
    if not getattr(_audit_hook, "installed", False):
        sys.addaudithook(_audit_hook)
        _audit_hook.installed = True  # type: ignore[attr-defined]
    modes = _opened_paths.setdefault(str(path), [])
    try:
        yield modes
    finally:
        del _opened_paths[str(path)]


def _check_generation(contract: Contract, task: GenerationTask, request: Any, channels: int) -> None:
    size = task.size(request)
    fields = dict.fromkeys((*task.conditions(request), *task.negative_conditions(request)))
    conditioners = {field: FakeConditioner(HIDDEN_SIZE, 0) for field in fields} or {
        "cond": FakeConditioner(HIDDEN_SIZE, 0)
    }
    values = {
        field: [value for _ in range(2) for value in task.conditions(request).get(field, [None])]
        for field in conditioners
    }
    requests = [
        request.model_copy(update={"seed": seed, "count": 1, "steps": None, "guidance_scale": None}) for seed in (1, 2)
    ]
    data = randn(2, channels, *size)
    check_in_model(contract, data=data, values=values, task=task, conditioners=conditioners, requests=requests)


def check_dataset(dataset: Dataset, data_field: str | None = None, fields: tuple[str, ...] = ()) -> None:
    """Try every line of the contract `Dataset`.

    Args:
        data_field: the field that is generated, whose numbers must lie in [-1, 1]; None: the first that is a tensor of
            floating numbers.
        fields: those whose `values` can be listed.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Dataset", dataset)
    with contract.clause("len(dataset) is at least 1"):
        expect(len(dataset) > 0, f"{len(dataset)}")
    indices = sorted({0, len(dataset) - 1, *range(0, len(dataset), max(1, len(dataset) // NUM_EXAMPLES))})[
        :NUM_EXAMPLES
    ]
    with contract.clause("get(index, rng) gives a mapping with the same fields for every index, data in [-1, 1]"):
        examples = [dataset.get(index, random.Random(index)) for index in indices]
        for example in examples:
            _check_example(example, examples[0], data_field)
    with contract.clause(
        "an example depends on its index and `rng` alone: no other chance, no memory of what was read"
    ):
        for seed in (3, 4):
            with reseed_globals(seed):
                for index, example in reversed(list(zip(indices, examples, strict=True))):
                    reread = dataset.get(index, random.Random(index))
                    expect_equal_nested(dict(reread), dict(example), f"example {index} read again")
    with contract.clause("weight(index) is a finite number above 0"):
        weights = [dataset.weight(index) for index in indices]
        expect(all(math.isfinite(weight) and weight > 0 for weight in weights), f"{weights}")
    for field in fields:
        with contract.clause("values(field) gives each value once, in a fixed order"):
            values = list(dataset.values(field))
            expect(len(set(values)) == len(values), f"{len(values) - len(set(values))} values of '{field}' twice")
            expect(list(dataset.values(field)) == values, f"another order of '{field}' the second time")
            expect(values, f"no value of '{field}'")
    name = data_field or _first_tensor(examples[0])
    if len(indices) > 1 and all(e[name].shape == examples[0][name].shape for e in examples):
        data = torch.stack([example[name] for example in examples])
        # a corner of it is enough to be trained on, and quick
        corner = data[(slice(None), slice(None), *(slice(CROP_SIZE) for _ in data.shape[2:]))]
        check_in_model(contract, data=corner, dataset=dataset)


def _check_example(example: Any, first: Any, data_field: str | None) -> None:
    expect(isinstance(example, Mapping), f"{type(example).__name__} instead of a mapping")
    expect(set(example) == set(first), f"the fields {sorted(example)} here, {sorted(first)} there")
    name = data_field or _first_tensor(example)
    expect(
        name in example, f"no field '{data_field}' among {sorted(example)}" if data_field else "no field with a tensor"
    )
    data = example[name]
    expect(isinstance(data, Tensor) and data.is_floating_point(), f"'{name}' is no tensor of floating numbers")
    expect_finite(data, f"'{name}'")
    largest = float(data.abs().max())
    expect(largest <= 1 + 1e-6, f"'{name}' has numbers up to {largest:.3g}")


def _first_tensor(example: Mapping[str, Any]) -> str:
    return next((n for n, value in example.items() if isinstance(value, Tensor) and value.is_floating_point()), "")


PROTOCOL = "lumina_core.protocols.{}"


def check_feature_extractor(extractor: FeatureExtractor, data: Tensor) -> None:
    """Try every line of the contract `FeatureExtractor`.

    Args:
        data: (B, channels, ...) in [-1, 1], at least two different items.

    Raises:
        ContractError: a line is broken.
    """
    contract, items = Contract(PROTOCOL.format("FeatureExtractor"), extractor), list(data)
    with contract.clause("name is said beside every figure, key changes whenever the numbers do: plain words"):
        labels = [word for word in (extractor.name, extractor.key) if isinstance(word, str) and word]
        expect(len(labels) == 2, f"{extractor.name!r} and {extractor.key!r}")
    with contract.clause("B items give (B, D) finite numbers on the CPU"):
        rows = extractor(items)
        expect_shape(rows, (len(items), None), "the features")
        expect_finite(rows, "the features")
        expect(rows.device.type == "cpu", f"features on {rows.device}")
    with contract.clause("the same items give the same features, without chance"), reseed_globals(5):
        expect_equal(extractor(items), rows, "the second time")
    with contract.clause("each item alone decides its row, whatever its neighbours and their order"):
        for index, item in enumerate(items):
            expect_close(extractor([item])[0], rows[index], f"item {index} alone")
        expect_close(extractor(items[::-1]), rows.flip(0), "the rows of the items backwards")
    with contract.clause("different items have different features"):
        expect(not torch.equal(rows[0], rows[1]), "the same row for the first two items")


def check_metric(metric: Metric, data: Tensor, fields: Sequence[Mapping[str, Any]] = ()) -> None:
    """Try every line of the contract `Metric`, and those of its features.

    Args:
        data: (B, channels, ...) in [-1, 1], at least two different items: the real examples it is judged by.
        fields: what is said of each of them, by field, for a metric that compares with it.

    Raises:
        ContractError: a line is broken.
    """
    check_feature_extractor(metric.feature_extractor, data)
    contract = Contract(PROTOCOL.format("Metric"), metric)
    with contract.clause("name stands in a table, min_samples is the fewest items a figure can be told of"):
        expect(isinstance(metric.name, str), f"name is {metric.name!r}")
        expect(isinstance(metric.min_samples, int) and metric.min_samples > 0, f"min_samples is {metric.min_samples!r}")
    inputs = _make_inputs(metric.feature_extractor(list(data)), metric.min_samples, list(fields) or [{}] * len(data))
    count = len(inputs.items)
    with contract.clause("compute(inputs) gives by name a float of the whole set, or a number a case (M,)"):
        values = metric.compute(inputs)
        expect(isinstance(values, Mapping) and values, f"{type(values).__name__} of {len(values)} figures")
        for name, value in values.items():
            expect(isinstance(value, float | Tensor), f"'{name}' is {type(value).__name__}")
            if isinstance(value, Tensor):
                expect_shape(value, (count,), f"'{name}'")
    with contract.clause("the same is judged alike, without chance"), reseed_globals(5):
        _expect_values_close(metric.compute(inputs), values)
    with contract.clause("the order of the cases decides nothing"):
        reversed_order = list(range(count))[::-1]
        reversed_values = metric.compute(inputs.subset(reversed_order))
        _expect_values_close({n: f.flip(0) if isinstance(f, Tensor) else f for n, f in reversed_values.items()}, values)


def _make_inputs(real: Tensor, min_samples: int, fields: Sequence[Mapping[str, Any]]) -> EvalInputs:
    """Each real example asked for as often as it takes, what was made near to it but for a little noise."""
    rows = torch.arange(max(min_samples, 2 * len(real))) % len(real)
    std = real.std(dim=0, keepdim=True).nan_to_num(1.0)
    generated = real[rows] + 0.3 * std * randn(len(rows), real.shape[1])
    return EvalInputs(generated, real, [EvalItem(fields[int(row)], int(row)) for row in rows], torch.arange(len(real)))


def _expect_values_close(got: Mapping[str, Tensor | float], expected: Mapping[str, Tensor | float]) -> None:
    expect(set(got) == set(expected), f"the figures {sorted(got)} instead of {sorted(expected)}")
    for name, value in expected.items():
        got_value, expected_value = torch.as_tensor(got[name]).double(), torch.as_tensor(value).double()
        expect(torch.equal(got_value.isnan(), expected_value.isnan()), f"'{name}' is no number at other places")
        expect_close(got_value.nan_to_num(), expected_value.nan_to_num(), f"'{name}'", tolerance=1e-3)


def check_checkpoint_format(checkpoint_format: CheckpointFormat, folder: Path) -> None:
    """Try every line of the contract `CheckpointFormat`.

    Args:
        folder: a small model of this layout; it is only read.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("CheckpointFormat", checkpoint_format)
    before = _file_sizes(folder)
    with tempfile.TemporaryDirectory() as temp_dir:
        empty, exported, truncated = (Path(temp_dir) / name for name in ("empty", "back", "cut"))
        empty.mkdir()
        with contract.clause("matches(folder): True for one of its own, False for any other"):
            expect(checkpoint_format.matches(folder) is True, "not True for the sample")
            expect(checkpoint_format.matches(empty) is False, "not False for an empty folder")
        with contract.clause("load(folder) gives a recipe, and weights that are not read yet"):
            loaded = checkpoint_format.load(folder)
            expect(isinstance(loaded, LoadedCheckpoint), f"{type(loaded).__name__} instead of LoadedCheckpoint")
            read_recipe(dict(loaded.recipe), "the format's")
            expect(loaded.weights, "no weights")
        with contract.clause(
            "export(model) is the exact inverse: what is written opens with the same recipe and weights"
        ):
            exported.mkdir()
            write_export(checkpoint_format.export(loaded), exported)
            expect(checkpoint_format.matches(exported), "a folder that it does not know")
            _expect_same_checkpoint(checkpoint_format.load(exported), loaded)
        with contract.clause("an incomplete folder is refused in words (a CheckpointError)"):
            _expect_truncated_error(checkpoint_format, exported, truncated)
        with contract.clause("a folder that is read stays as it was"):
            expect(_file_sizes(folder) == before, "other files than before")


def _file_sizes(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _expect_same_checkpoint(got: LoadedCheckpoint, expected: LoadedCheckpoint) -> None:
    _expect_same_weights(got.weights, expected.weights)
    _expect_same_weights(got.extra_tensors, expected.extra_tensors)
    for key in set(got.recipe) | set(expected.recipe):
        got_value, expected_value = got.recipe.get(key), expected.recipe.get(key)
        # what lies outside has another place in another folder
        is_path = (isinstance(expected_value, dict) and "source" in expected_value) or isinstance(
            expected_value, list | tuple
        )
        expect(
            is_path or got_value == expected_value,
            f"the recipe's {key} is {got_value!r:.80} instead of {expected_value!r:.80}",
        )


def _expect_same_weights(got: Weights, expected: Weights) -> None:
    expect(set(got) == set(expected), f"other tensors: {sorted(set(got) ^ set(expected))[:3]}")
    for name, tensor in expected.items():
        expect_equal(read_tensor(got[name]), read_tensor(tensor), name)


def _expect_truncated_error(checkpoint_format: CheckpointFormat, complete: Path, truncated: Path) -> None:
    shutil.copytree(complete, truncated)
    largest = max((file for file in truncated.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    try:
        checkpoint_format.load(truncated)
    except LuminaError:
        return
    raise ViolationError(f"nothing, with half of {largest.name}")
