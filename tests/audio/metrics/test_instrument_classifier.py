"""The classifier that comes with the package knows instruments, of clips that it was not taught."""

from __future__ import annotations

import torch

from lumina_audio.datasets.instruments.eval_set import InstrumentsEvalSet
from lumina_audio.metrics.class_kl import ClassKL
from lumina_audio.metrics.instrument_classifier import WEIGHTS_FILE, InstrumentClassifierFeatures
from lumina_core.protocols import EvalInputs, EvalItem

EXAM = InstrumentsEvalSet()
HELD_OUT = list(EXAM.indices("pitches"))[::8]


def test_held_out_notes_are_taken_for_their_instruments():
    answers = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config(output="classes"))(
        [EXAM.reference(place) for place in HELD_OUT]
    )
    right = torch.tensor([EXAM.fields(place, None)["label"] for place in HELD_OUT])
    best = answers.argsort(1, descending=True)[:, :5]
    assert (best == right[:, None]).any(1).float().mean() > 0.85 and (best[:, 0] == right).float().mean() > 0.6


def test_the_real_sounds_themselves_diverge_from_nothing_and_others_do():
    features = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config(output="classes"))
    real = features([EXAM.reference(place) for place in HELD_OUT[:6]])
    metric = ClassKL(ClassKL.Config(), features)
    cases = [EvalItem({}, place) for place in range(6)]
    same = metric.compute(EvalInputs(real, real, cases, torch.arange(6)))
    other = metric.compute(EvalInputs(real.roll(1, 0), real, cases, torch.arange(6)))
    assert same["KL"].max() < 1e-9 and other["KL"].mean() > 1
    assert features.classes[0] == "acoustic grand piano" and len(features.classes) == 128


def test_embeddings_have_unit_length_and_what_ships_is_small():
    from importlib.resources import files

    rows = InstrumentClassifierFeatures(InstrumentClassifierFeatures.Config())([EXAM.reference(HELD_OUT[0])])
    assert abs(float(rows.norm()) - 1) < 1e-5
    assert len((files("lumina_audio") / WEIGHTS_FILE).read_bytes()) < 1_500_000
