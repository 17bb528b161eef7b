import csv

import pytest
import torch
from lumina_motion.figures import CAPTIONS

from lumina_core.cli.main import run
from lumina_core.plugins.loader import load_plugins
from lumina_core.testing import Sample, check_component

CURVES = torch.stack([torch.linspace(-1, 1, 16).sin() * k for k in (1, -1)]).expand(2, 2, 16)


@pytest.mark.parametrize(
    ("component_type", "name", "sample"),
    [
        ("tokenizer", "motion.frames", torch.zeros(3, 2, 12)),
        ("autoencoder", "motion.places", CURVES),
        ("dataset", "motion.figures", "motion"),
        ("task", "motion.move", Sample({"words": "slow circle", "moments": 12}, {"channels": 2})),
    ],
)
def test_each_component_fulfils_its_contract(component_type, name, sample):
    options = {"moments": 16} if component_type == "dataset" else {}
    check_component(load_plugins(), component_type, name, options, sample)


def test_the_command_line_trains_and_generates(tmp_path):
    few = ["--set", "training.steps=2", "--set", "training.global_batch_size=4"]
    assert run(["train", "motion.tiny", "--out", str(tmp_path / "run"), "--quiet", *few]) == 0
    arguments = ["motion", CAPTIONS[0], "--model", str(tmp_path / "run" / "model"), "--out", str(tmp_path / "a.csv")]
    assert run([*arguments, "--steps", "2", "--moments", "32"]) == 0
    rows = [row for row in csv.reader((tmp_path / "a.csv").read_text("utf-8").splitlines()) if row[0].isdigit()]
    assert len(rows) == 32
