"""Bad inputs by a seeded generator: a quick share here, all 800 by `nox -s fuzz` (LUMINA_FUZZ=800)."""

from __future__ import annotations

import os
import sys

import pytest
from fuzz.bad_inputs import make_cases
from fuzz.runner import run_case
from making import make_model, registry_of

pytestmark = pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "fork"), reason="each case is a fork")

SEED = int(os.environ.get("LUMINA_FUZZ_SEED", "13"))
COUNT = int(os.environ.get("LUMINA_FUZZ", "60"))
CHUNK = 20


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Models of random weights by task."""
    for module in (
        "lumina_core.cli.generate",
        "lumina_core.cli.train",
        "lumina_core.cli.evaluate",
        "lumina_core.convert",
        "lumina_core.evaluation.evaluate",
        "lumina_core.sampling.pipeline",
        "lumina_core.training.dry_run",
    ):
        __import__(module)  # once, in the process that all cases are forked from
    folder = tmp_path_factory.mktemp("models")
    return {task: make_model(f"{task}.tiny", folder / task, registry_of(task)) for task in ("image", "audio")}


def test_the_generator_gives_the_same_cases_for_a_seed():
    first, second = make_cases(SEED, 200), make_cases(SEED, 200)
    assert [(c.kind, c.arguments) for c in first] == [(c.kind, c.arguments) for c in second]
    assert len({c.kind for c in first}) > 30


@pytest.mark.parametrize("start", range(0, COUNT, CHUNK))
def test_bad_inputs_are_refused_in_one_line_and_change_nothing(start, models, tmp_path):
    cases = make_cases(SEED, COUNT)
    wrong = []
    for number in range(start, min(start + CHUNK, COUNT)):
        faults = run_case(cases[number], tmp_path / str(number), models)
        wrong += [f"{number} {cases[number].kind} {cases[number].arguments!r:.300}: {fault}" for fault in faults]
    assert not wrong, "\n".join(wrong)
