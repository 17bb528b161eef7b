"""Instrument classifier on held-out clips."""

from __future__ import annotations

import torch

from lumina_audio.datasets.instruments.dataset import InstrumentsEvalSet
from lumina_audio.metrics.instruments import WEIGHTS_FILE, ClassKL, InstrumentClassifierFeatures
from lumina_core.protocols import EvalInputs, EvalItem

EVAL_SET = InstrumentsEvalSet()
HELD_OUT = list(EVAL_SET.indices("pitches"))[::8]


def test_classifier_names_instruments_of_held_out_notes():
    answers = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config(output="classes"))(
        [EVAL_SET.reference(index) for index in HELD_OUT]
    )
    right = torch.tensor([EVAL_SET.fields(index, None)["label"] for index in HELD_OUT])
    best = answers.argsort(1, descending=True)[:, :5]
    assert (best == right[:, None]).any(1).float().mean() > 0.85 and (best[:, 0] == right).float().mean() > 0.6


def test_class_kl_is_0_for_the_same_clips_and_large_for_others():
    features = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config(output="classes"))
    real = features([EVAL_SET.reference(index) for index in HELD_OUT[:6]])
    metric = ClassKL(ClassKL.Config(), features)
    cases = [EvalItem({}, index) for index in range(6)]
    same = metric.compute(EvalInputs(real, real, cases, torch.arange(6)))
    other = metric.compute(EvalInputs(real.roll(1, 0), real, cases, torch.arange(6)))
    assert same["KL"].max() < 1e-9 and other["KL"].mean() > 1
    assert features.classes[0] == "acoustic grand piano" and len(features.classes) == 128


def test_embeddings_have_unit_length_and_the_weights_file_is_small():
    from importlib.resources import files

    rows = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config())([EVAL_SET.reference(HELD_OUT[0])])
    assert abs(float(rows.norm()) - 1) < 1e-5
    assert len((files("lumina_audio") / WEIGHTS_FILE).read_bytes()) < 1_500_000
