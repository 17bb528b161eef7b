"""The testing kit finds planted faults, each under the clause that it violates."""

from __future__ import annotations

import pytest
import torch
from contracts import faults as f
from contracts import faults_moving as m
from safetensors.torch import save_file

from lumina_core import testing
from lumina_core.testing import CHECKS, ContractError

LATENT = torch.zeros(3, 2, 6)
DATA = torch.sin(torch.arange(36.0) / 3).reshape(3, 2, 6)
WORDS = ["cat", "horse", "ox"]

FAULTS = {
    "a wrong inverse": ("tokenizer", f.TurnedBack(), LATENT, r"the latent differs .* is x, bitwise"),
    "lost numbers": ("tokenizer", f.Rounded(), LATENT, r"item 0 with 6 lost .* every number exactly once"),
    "other positions of empty tokens": ("tokenizer", f.Misplaced(), LATENT, r"positions differs .* empty\(batch"),
    "another dtype": ("tokenizer", f.Halved(), LATENT, r"float32 instead of torch.float64"),
    "an invalid size without ShapeError": ("tokenizer", f.Careless(), LATENT, r"IndexError .* raises a ShapeError"),
    "no unit variance": ("autoencoder", f.Unscaled(), DATA, r"a deviation of \d.* unit variance"),
    "a wrong downsample_factor": ("autoencoder", f.OfAnotherStride(), DATA, r"shape \(3, 2, 3\).* downsample_factor"),
    "a decoder that loses the data": ("autoencoder", f.OneWay(), DATA, r"mean squared error .* decode undoes encode"),
    "a condition of the batch": ("conditioner", f.Normalised(), WORDS, r"condition of 'horse' in a batch differs"),
    "padding that leaks": ("conditioner", f.Padded(), WORDS, r"'cat' in a batch differs .* padding never leaks"),
    "unmasked padding": ("conditioner", f.Unmasked(), WORDS, r"the context of 'cat'.* padding never leaks"),
    "dropout in evaluation": ("conditioner", f.Dropping(), WORDS, r"without random numbers"),
    "a null condition of other fields": ("conditioner", f.Mute(), WORDS, r"NoneType for the width 8.* null_condition"),
    "Python's global random numbers": ("dataset", f.OfGlobalChance(), None, r"example \d read again.* `rng` alone"),
    "torch's global random numbers": ("dataset", f.OfTorchsChance(), None, r"global random numbers of torch"),
    "a state of earlier reads": ("dataset", f.Remembering(), None, r"\['label'\] is \d+ instead of \d+"),
    "data beyond 1": ("dataset", f.Loud(), None, r"numbers up to \d+.* data in \[-1, 1\]"),
    "a weight of zero": ("dataset", f.Weightless(), None, r"\[0.0, .* a finite number above 0"),
    "a wrong size": ("dataset", f.Missized(), None, r"\(7,\) for data of the shape \(1, 6\)"),
    "several sizes without variable_size": ("dataset", f.Growing(), None, r"variable_size False for the sizes"),
    "read groups of other examples": ("dataset", f.Grouped(), None, r"4 of 5 examples"),
    "a schedule that ends early": ("schedule", m.Short(), None, r"from 0.0 to 0.999.* from exactly 0 to exactly 1"),
    "a schedule that does not rise": ("schedule", m.Standing(), None, r"7 steps that do not rise.* rise at every step"),
    "a schedule in float32": ("schedule", m.Coarse(), None, r"float32 instead of torch.float64"),
    "times of global random numbers": ("time_sampler", m.Impatient(), None, r"time of generator 0 alone|global random"),
    "one generator for all times": ("time_sampler", m.Sharing(), None, r"the time of generator 1 alone differs"),
    "a wrong order": ("solver", m.first_order, 2, r"an order of 1\.\d+.* divides the error by two to the order"),
    "state in a solver": ("solver", m.Multistep(), None, r"the second result differs .* no state"),
    "x changed in place": ("solver", m.in_place, None, r"the argument x differs"),
    "a reversed time step": ("solver", m.backwards, None, r"a constant velocity is followed exactly"),
    "evaluations beyond u": ("solver", m.beyond, None, r"evaluations at .* for 0.25 to 0.5"),
    "state of another integration": ("solver", m.Remembering(), None, r"second result differs .* one integration"),
    "guidance off by one": ("guidance", m.off_by_one, None, r"a scale of 1 is exactly the conditional"),
    "guidance by the batch": ("guidance", m.rescaled_by_the_batch, None, r"an item alone differs"),
    "noise of the data": ("coupling", m.DataAsNoise(), None, r"sorted values differs .* permutation of the noise"),
    "a random coupling": ("coupling", m.RandomCoupling(), None, r"it is deterministic"),
    "a wrong derivative": ("path", m.Bent(m.LinearPath.Config()), None, r"d_alpha differs .* derivatives"),
    "reversed time": ("path", m.Reversed(m.LinearPath.Config()), None, r"alpha at the ends differs"),
    "a head that ignores the mask": ("head", m.Mixing(m.velocity_head().config), None, r"False mask change no output"),
    "classes from padding": ("head", m.Pooling(), 16, r"an output with other padding differs .* False mask"),
    "a loss of padding": ("objective", m.flow(m.Unmasking), None, r"other outputs under the mask"),
    "an objective's own random numbers": ("objective", m.flow(m.OwnChance), None, r"come from the generators"),
    "random numbers of other items": ("objective", m.flow(m.Neighbours), None, r"not from those of others"),
    "a backbone that reads padding": ("backbone", m.Leaking(), None, r"item 1, 3 tokens long.* padding never leaks"),
    "a backbone that reads padded context": ("backbone", m.Forgetful(), None, r"item 0 with other padding.* context"),
    "a backbone that mixes nothing": ("backbone", m.Apart(), None, r"it mixes tokens"),
    "higher frequencies at a larger size": ("rope_scaling", m.Faster(), None, r"no frequency is higher"),
    "an undeclared time dependence": ("rope_scaling", m.Denying(), None, r"time only if `time_dependent` is true"),
    "an encoding without positions": ("position_encoding", m.Constant(), None, r"scores do not change"),
    "features of a batch": ("feature_extractor", f.BesideOthers(), DATA, r"item 0 alone differs .* each item alone"),
    "a score of the first item": ("metric", f.InOrder(), DATA, r"'near' differs .* the order of the items"),
    "a score per feature": ("metric", f.PerFeature(), DATA, r"'near' has the shape \(2,\)"),
    "blocks that change": ("context_drop", m.Tiring(), None, r"another result the second time"),
    "a row that reads other rows": ("block_cache", m.Gregarious(), None, r"its own numbers alone"),
    "a file written in place": ("task", f.HalfWritten(), {}, r"written in place.* written atomically"),
    "metadata that is not saved": ("task", f.Untold(), {}, r"the same bytes for other metadata"),
    "a second file": ("task", f.Littering(), {}, r"writes that one file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault):
    component_type, component, sample, message = FAULTS[fault]
    check = getattr(testing, f"check_{component_type}")
    with pytest.raises(ContractError, match=message):
        check(component, *([] if sample is None else [sample]))


def test_duplicate_values_are_found():
    with pytest.raises(ContractError, match=r"1 values of 'label' twice"):
        testing.check_dataset(f.Repeating(), fields=("label",))


CORRECT = {
    "tokenizer": (f.Rows(), LATENT), "autoencoder": (f.Halves(), DATA),
    "conditioner": (f.Letters(), WORDS), "dataset": (f.Waves(),), "metric": (f.Near(), DATA),
}  # fmt: skip


@pytest.mark.parametrize("component_type", CORRECT)
def test_the_components_without_the_fault_pass(component_type):
    getattr(testing, f"check_{component_type}")(*CORRECT[component_type])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (f.Rounding(), r"torch.bfloat16 instead of torch.float32.* exact inverse"),
        (f.Eager(), r"not False for an empty"),
    ],
)
def test_a_format_that_rounds_or_matches_everything_is_found(layout, message, tmp_path):
    save_file({"a": torch.randn(8, 8)}, tmp_path / "weights.safetensors")
    testing.check_checkpoint_format(f.OneFile(), tmp_path)
    with pytest.raises(ContractError, match=message):
        testing.check_checkpoint_format(layout, tmp_path)


def test_a_message_names_component_contract_value_and_clause():
    with pytest.raises(ContractError) as caught:
        testing.check_schedule(m.Short())
    assert str(caught.value) == (
        "Short violates lumina_core.protocols.TimeSchedule: 1 steps from 0.0 to 0.999. "
        "Clause: times from exactly 0 to exactly 1"
    )


def test_there_is_a_fault_for_every_component_type():
    assert {component_type for component_type, *_ in FAULTS.values()} == set(CHECKS) - {"checkpoint_format"}
