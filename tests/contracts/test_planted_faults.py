"""The kit catches planted faults, each under the line of the contract that it breaks, in words that name it."""

from __future__ import annotations

import pytest
import torch
from contracts import faults as f
from contracts import faults_moving as m
from safetensors.torch import save_file

from lumina_core import testing
from lumina_core.testing import ContractError
from lumina_core.testing._dispatch import CHECKS

LATENT = torch.zeros(3, 2, 6)
DATA = torch.sin(torch.arange(36.0) / 3).reshape(3, 2, 6)
WORDS = ["cat", "horse", "ox"]

FAULTS = {
    "a wrong inverse": ("tokenizer", f.TurnedBack(), LATENT, r"what comes back differs .* bit for bit"),
    "numbers lost": ("tokenizer", f.Rounded(), LATENT, r"numbers of 12, 6 are lost .* loses and invents no number"),
    "blank at other places": ("tokenizer", f.Misplaced(), LATENT, r"positions differs .* empty\(batch, size\)"),
    "another number format": ("tokenizer", f.Halved(), LATENT, r"float32 instead of torch.float64"),
    "an extent refused by accident": ("tokenizer", f.Careless(), LATENT, r"IndexError .* refused with a ShapeError"),
    "no unit variance": ("autoencoder", f.Unscaled(), DATA, r"a deviation of \d.* unit variance"),
    "a wrong stride": ("autoencoder", f.OfAnotherStride(), DATA, r"shape \(3, 2, 3\).* divided by its downsample_factor"),
    "nothing comes back": ("autoencoder", f.OneWay(), DATA, r"mean squared error .* decode undoes encode"),
    "a batch is not its singles": ("conditioner", f.Normalised(), WORDS, r"the pooled condition of 'horse' in a batch differs"),
    "padding leaks": ("conditioner", f.Padded(), WORDS, r"'cat' beside longer ones differs .* padding never leaks"),
    "padding unmasked": ("conditioner", f.Unmasked(), WORDS, r"the context of 'cat'.* padding never leaks"),
    "dropout while asked": ("conditioner", f.Dropping(), WORDS, r"without chance"),
    "silence through other doors": ("conditioner", f.Mute(), WORDS, r"context is None, its width is 8.* own silence"),
    "global chance": ("dataset", f.OfGlobalChance(), None, r"example \d read again.* differs .* `rng` alone"),
    "torch's chance": ("dataset", f.OfTorchsChance(), None, r"draws from the global random numbers of torch"),
    "memory of what was read": ("dataset", f.Remembering(), None, r"\['label'\] is \d+ instead of \d+"),
    "data beyond 1": ("dataset", f.Loud(), None, r"numbers up to \d+.* data in \[-1, 1\]"),
    "never drawn": ("dataset", f.Weightless(), None, r"\[0.0, .* a finite number above 0"),
    "a grid that ends early": ("schedule", m.Short(), None, r"from 0.0 to 0.999.* from exactly 0 to exactly 1"),
    "a grid that stands still": ("schedule", m.Standing(), None, r"with 7 steps it does not.* rises at every step"),
    "a coarse grid": ("schedule", m.Coarse(), None, r"float32 instead of float64"),
    "a draw of global chance": ("time_sampler", m.Impatient(), None, r"the time of generator 0 alone|global random numbers"),
    "one generator for all": ("time_sampler", m.Sharing(), None, r"the time of generator 1 alone differs"),
    "a wrong order": ("solver", m.first_order, 2, r"an order of 1\.\d+.* divides the error by two to the order"),
    "state in a solver": ("solver", m.Multistep(), None, r"the second time differs .* no state"),
    "x changed in place": ("solver", m.in_place, None, r"the x that was handed over differs"),
    "the wrong way": ("solver", m.backwards, None, r"a constant velocity is followed exactly"),
    "asked beyond u": ("solver", m.beyond, None, r"it asked at .* between t and u"),
    "guidance off by one": ("guidance", m.off_by_one, None, r"a scale of 1 is exactly the conditional"),
    "guidance by the batch": ("guidance", m.rescaled_by_the_batch, None, r"an item alone differs"),
    "a wrong slope": ("path", m.Bent(m.LinearPath.Config()), None, r"d_alpha differs .* derivatives"),
    "time turned round": ("path", m.Reversed(m.LinearPath.Config()), None, r"alpha at the ends differs"),
    "a head that ignores the mask": ("head", m.Mixing(m.velocity_head().config), None, r"the mask is kept"),
    "classes from padding": ("head", m.Pooling(), 16, r"an answer with other padding differs .* the mask is kept"),
    "a loss of padding": ("objective", m.flow(m.Unmasking), None, r"other answers under the mask"),
    "chance of its own": ("objective", m.flow(m.OwnChance), None, r"all chance comes from the generators"),
    "the neighbour's chance": ("objective", m.flow(m.Neighbours), None, r"not on its neighbours"),
    "a backbone that reads padding": ("backbone", m.Leaking(), None, r"item 1, 3 tokens long.* padding never leaks"),
    "a backbone that reads padded memory": ("backbone", m.Forgetful(), None, r"item 0 with other padding.* context"),
    "a backbone that mixes nothing": ("backbone", m.Apart(), None, r"it mixes tokens"),
    "a canvas that turns faster": ("rope_scaling", m.Faster(), None, r"turns nothing faster"),
    "a time that is denied": ("rope_scaling", m.Denying(), None, r"the time matters only where `time_dependent` says so"),
    "an encoding without positions": ("position_encoding", m.Constant(), None, r"scores do not change"),
    "features of a batch": ("feature_extractor", f.BesideOthers(), DATA, r"item 0 alone differs .* each item alone"),
    "a metric of the first case": ("metric", f.InOrder(), DATA, r"'near' differs .* the order of the cases"),
    "a number a feature": ("metric", f.PerFeature(), DATA, r"'near' has the shape \(2,\)"),
    "blocks that change": ("context_drop", m.Tiring(), None, r"another answer the second time"),
    "a row that looks around": ("block_cache", m.Gregarious(), None, r"by its own numbers alone"),
    "a slope kept, not carried": ("solver", m.Remembering(), None, r"the second time differs .* carries along"),
    "half a file": ("task", f.HalfWritten(), {}, r"opened for writing in its place.* whole or not there"),
    "a record left out": ("task", f.Untold(), {}, r"the same bytes for other metadata"),
    "files beside the file": ("task", f.Littering(), {}, r"writes that one file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_caught_and_named(fault):
    kind, part, sample, said = FAULTS[fault]
    check = getattr(testing, f"check_{kind}")
    with pytest.raises(ContractError, match=said):
        check(part, *([] if sample is None else [sample]))


def test_values_that_come_twice_are_caught():
    with pytest.raises(ContractError, match=r"1 values of 'label' twice"):
        testing.check_dataset(f.Repeating(), fields=("label",))


SOUND = {
    "tokenizer": (f.Rows(), LATENT), "autoencoder": (f.Halves(), DATA),
    "conditioner": (f.Letters(), WORDS), "dataset": (f.Waves(),), "metric": (f.Near(), DATA),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOUND)
def test_what_the_faults_were_planted_in_is_sound(kind):
    getattr(testing, f"check_{kind}")(*SOUND[kind])


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (f.Rounding(), r"torch.bfloat16 instead of torch.float32.* exact inverse"),
        (f.Eager(), r"not False for an empty"),
    ],
)
def test_a_layout_that_rounds_or_knows_everything_is_caught(layout, said, tmp_path):
    save_file({"a": torch.randn(8, 8)}, tmp_path / "weights.safetensors")
    testing.check_checkpoint_format(f.OneFile(), tmp_path)
    with pytest.raises(ContractError, match=said):
        testing.check_checkpoint_format(layout, tmp_path)


def test_a_message_says_who_what_came_what_was_wanted_and_which_contract():
    with pytest.raises(ContractError) as caught:
        testing.check_schedule(m.Short())
    assert str(caught.value) == (
        "Short breaks its contract. Came: 1 steps from 0.0 to 0.999. Wanted: from exactly 0 to exactly 1. "
        "Contract: TimeSchedule in lumina_core.protocols"
    )


def test_there_is_a_fault_for_every_kind_of_part():
    assert {kind for kind, *_ in FAULTS.values()} == set(CHECKS) - {"checkpoint_format"}
