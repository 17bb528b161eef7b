"""Checks of what meets the outside: task and data set."""

from __future__ import annotations

import math
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import Config
from lumina_core.parts import Dataset, Task
from lumina_core.request import Request
from lumina_core.testing._contract import Contract, drawn, other_chance, want, want_alike, want_finite
from lumina_core.testing._stand_ins import Said
from lumina_core.testing._whole import WIDTH, check_whole

LOOKED_AT = 4
"""Examples of a data set that are read."""
SIDE = 6
"""Sides of the corner of an example that a small model is trained on."""


def check_task(task: Task, asked: Mapping[str, Any], channels: int = 3) -> None:
    """Try every line of the contract `Task`: from a request to a file that is whole or not there.

    Args:
        asked: fields of a small request, for instance {"prompt": "a red heart", "size": (16, 16)}.
        channels: of the data that it saves.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Task", task)
    with contract.line("Request is a child of lumina_core.request.Request, and reads what is asked"):
        wanted = (
            isinstance(task.Request, type) and issubclass(task.Request, Request) and issubclass(task.Request, Config)
        )
        want(wanted, f"{task.Request!r}")
        request = task.Request.read(asked, "the sample")
    with contract.line("data_field names the field of an example that is generated"):
        want(isinstance(task.data_field, str) and task.data_field, f"{task.data_field!r}")
    with contract.line(
        "extent(request) gives the sizes of the data: whole numbers above 0, without batch and channels"
    ):
        extent = task.extent(request)
        fits = isinstance(extent, tuple) and extent and all(isinstance(s, int) and s > 0 for s in extent)
        want(fits, f"{extent!r}")
    with contract.line("conditions(request) and silences(request) give one value a field, under names of conditioners"):
        for said in (task.conditions(request), task.silences(request)):
            want(isinstance(said, Mapping), f"{type(said).__name__} instead of a mapping")
            wrong = [field for field, value in said.items() if isinstance(value, str) or len(value) != 1]
            want(not wrong, f"{wrong} have not one value, in a list")
    item = drawn(channels, *extent).clamp(-1, 1)
    with tempfile.TemporaryDirectory() as folder:
        _check_saving(contract, task, item, Path(folder))
        with contract.line("save_grid(items, folder, name) writes one file in the folder and gives its path"):
            made = task.save_grid([item, -item], Path(folder) / "grid", "00001")
            there = sorted(file.name for file in (Path(folder) / "grid").iterdir())
            want(made.parent == Path(folder) / "grid" and there == [made.name], f"{made}, and in the folder {there}")
    _check_asking(contract, task, request, channels)


def _check_saving(contract: Contract, task: Task, item: Tensor, folder: Path) -> None:
    suffix = getattr(task, "suffix", "") or ".out"
    path, other = folder / f"first{suffix}", folder / f"second{suffix}"
    with contract.line("save(item, path, record) writes that one file"):
        task.save(item, path, {"seed": 1})
        want([file.name for file in folder.iterdir()] == [path.name], f"{[file.name for file in folder.iterdir()]}")
        want(path.stat().st_size > 0, "an empty file")
    with contract.line("the same item and record give the same bytes, another record others: it is in the file"):
        task.save(item, other, {"seed": 1})
        want(other.read_bytes() == path.read_bytes(), "other bytes")
        task.save(item, other, {"seed": 2})
        want(other.read_bytes() != path.read_bytes(), "the same bytes for another record")
    with contract.line(
        "a file is whole or not there: written beside its place, then moved (lumina_core.files.whole_file)"
    ):
        with _written_in_place(other) as found:
            task.save(item, other, {"seed": 3})
        want(not found, f"{other.name} was opened for writing in its place, so a crash leaves half of it")
        before = other.read_bytes()
        # a record that no format takes: whatever happens, the old file stays, or the new one is whole
        _fails(task, item, other, folder)
        want(other.read_bytes() == before or other.stat().st_size >= len(before), "a file cut short by a failure")
        rest = sorted({file.name for file in folder.iterdir()} - {path.name, other.name})
        want(not rest, f"a failure leaves {rest}")


class _Unwritable:
    """What cannot be written in any form."""

    def __repr__(self) -> str:
        raise RuntimeError("no room")

    __str__ = __repr__


def _fails(task: Task, item: Tensor, path: Path, folder: Path) -> None:
    record = {"seed": 3, "broken": _Unwritable()}
    for target in (path, folder / f"third{path.suffix}"):
        try:
            task.save(item, target, record)
        except Exception:
            continue
        (folder / f"third{path.suffix}").unlink(missing_ok=True)  # it takes what no format takes: then it is whole


_watched: dict[str, list[str]] = {}
_WRITING = ("w", "a", "x", "+")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str) and arguments[0] in _watched:
        mode, flags = arguments[1], arguments[2]
        writes = any(letter in mode for letter in _WRITING) if isinstance(mode, str) else bool((flags or 0) & 3)
        if writes:
            _watched[arguments[0]].append(str(mode))


@contextmanager
def _written_in_place(path: Path) -> Iterator[list[str]]:
    """Collects each time that this very path is opened for writing; Python has no way to take an audit hook out."""
    if not getattr(_watch, "begun", False):
        sys.addaudithook(_watch)
        _watch.begun = True  # type: ignore[attr-defined]
    found = _watched.setdefault(str(path), [])
    try:
        yield found
    finally:
        del _watched[str(path)]


def _check_asking(contract: Contract, task: Task, request: Any, channels: int) -> None:
    extent = task.extent(request)
    fields = dict.fromkeys((*task.conditions(request), *task.silences(request)))
    speakers = {field: Said(WIDTH, 0) for field in fields} or {"said": Said(WIDTH, 0)}
    values = {
        field: [value for _ in range(2) for value in task.conditions(request).get(field, [None])] for field in speakers
    }
    requests = [
        request.model_copy(update={"seed": seed, "count": 1, "steps": None, "guidance": None}) for seed in (1, 2)
    ]
    data = drawn(2, channels, *extent)
    check_whole(contract, data=data, values=values, task=task, conditioners=speakers, requests=requests)


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
    with contract.line("len(dataset) is at least 1"):
        want(len(dataset) > 0, f"{len(dataset)}")
    places = sorted({0, len(dataset) - 1, *range(0, len(dataset), max(1, len(dataset) // LOOKED_AT))})[:LOOKED_AT]
    with contract.line("example(index, draw) gives a mapping with the same fields for every index, data in [-1, 1]"):
        examples = [dataset.example(place, random.Random(place)) for place in places]
        for example in examples:
            _check_example(example, examples[0], data_field)
    with contract.line("an example depends on its index and `draw` alone: no other chance, no memory of what was read"):
        for seed in (3, 4):
            with other_chance(seed):
                for place, example in reversed(list(zip(places, examples, strict=True))):
                    again = dataset.example(place, random.Random(place))
                    want_alike(dict(again), dict(example), f"example {place} read again")
    with contract.line("weight(index) is a finite number above 0"):
        weights = [dataset.weight(place) for place in places]
        want(all(math.isfinite(weight) and weight > 0 for weight in weights), f"{weights}")
    for field in fields:
        with contract.line("values(field) gives each value once, in a fixed order"):
            values = list(dataset.values(field))
            want(len(set(values)) == len(values), f"{len(values) - len(set(values))} values of '{field}' twice")
            want(list(dataset.values(field)) == values, f"another order of '{field}' the second time")
            want(values, f"no value of '{field}'")
    name = data_field or _first_tensor(examples[0])
    if len(places) > 1 and all(e[name].shape == examples[0][name].shape for e in examples):
        data = torch.stack([example[name] for example in examples])
        # a corner of it is enough to be trained on, and quick
        corner = data[(slice(None), slice(None), *(slice(SIDE) for _ in data.shape[2:]))]
        check_whole(contract, data=corner, dataset=dataset)


def _check_example(example: Any, first: Any, data_field: str | None) -> None:
    want(isinstance(example, Mapping), f"{type(example).__name__} instead of a mapping")
    want(set(example) == set(first), f"the fields {sorted(example)} here, {sorted(first)} there")
    name = data_field or _first_tensor(example)
    want(
        name in example, f"no field '{data_field}' among {sorted(example)}" if data_field else "no field with a tensor"
    )
    data = example[name]
    want(isinstance(data, Tensor) and data.is_floating_point(), f"'{name}' is no tensor of floating numbers")
    want_finite(data, f"'{name}'")
    largest = float(data.abs().max())
    want(largest <= 1 + 1e-6, f"'{name}' has numbers up to {largest:.3g}")


def _first_tensor(example: Mapping[str, Any]) -> str:
    return next((n for n, value in example.items() if isinstance(value, Tensor) and value.is_floating_point()), "")
