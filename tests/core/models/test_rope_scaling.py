"""Rotary frequencies beyond the training size: invariants, limits and requirements of each method."""

from __future__ import annotations

import math

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens, next_dit
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_core.models.rope import frequencies
from lumina_core.models.rope_scaling import (
    DyPE,
    FrequencyAwareScaling,
    NoScaling,
    NTKScaling,
    PositionInterpolation,
    SwitchScaling,
    TimeAwareScaling,
    YaRN,
    target_freq_index,
)
from lumina_core.types import RopeContext

METHODS = [
    NoScaling,
    PositionInterpolation,
    NTKScaling,
    FrequencyAwareScaling,
    TimeAwareScaling,
    SwitchScaling,
    YaRN,
    DyPE,
]
AXES, BASE = (16, 28, 28), 10000.0
OWN = frequencies(AXES, BASE)


def rates(scaling_class, time=0.5, lengths=(1, 128, 128), trained=(1, 64, 64), **options):
    """Scale the trained frequencies with a method."""
    canvas = RopeContext(
        tuple(map(float, lengths)), None if trained is None else tuple(map(float, trained)), BASE, sum(AXES)
    )
    return scaling_class(scaling_class.Config.read(options, "test"))(OWN, canvas, time)


def close(one, other):
    assert all(torch.allclose(a, b, rtol=1e-9, atol=0) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scaling_class", METHODS, ids=lambda scaling_class: scaling_class.__name__)
def test_at_the_training_size_no_method_changes_anything(scaling_class):
    for time in (0.0, 0.3, 1.0):
        close(rates(scaling_class, time, lengths=(1, 64, 64)), OWN)


@pytest.mark.parametrize("scaling_class", METHODS[1:], ids=lambda scaling_class: scaling_class.__name__)
@given(ratio=st.floats(1, 16), time=st.floats(0, 1))
@settings(max_examples=25)
def test_no_frequency_rises_and_only_dype_goes_below_interpolation(scaling_class, ratio, time):
    got = rates(scaling_class, time, lengths=(1, 64 * ratio, 64))
    assert (got[1] <= OWN[1] * (1 + 1e-9)).all()
    if scaling_class is not DyPE:
        assert (got[1] >= OWN[1] / ratio * (1 - 1e-9)).all()
    close(got[::2], OWN[::2])  # an axis that did not grow is left alone


def test_each_axis_has_its_own_ratio_unless_isotropic():
    close(rates(PositionInterpolation, lengths=(1, 64, 256)), (OWN[0], OWN[1], OWN[2] / 4))
    close(rates(PositionInterpolation, lengths=(1, 64, 256), isotropic=True), tuple(own / 2 for own in OWN))


def test_smaller_sizes_are_unchanged_without_scale_down():
    close(rates(PositionInterpolation, lengths=(1, 32, 32)), OWN)
    close(rates(PositionInterpolation, lengths=(1, 32, 32), scale_down=True), (OWN[0], OWN[1] * 2, OWN[2] * 2))


def test_ntk_is_a_larger_base_and_its_exact_form_ends_at_interpolation():
    close(rates(NTKScaling)[1:], frequencies(AXES, 2 * BASE)[1:])
    exact = rates(NTKScaling, exact=True)
    assert float(exact[1][-1]) == pytest.approx(float(OWN[1][-1]) / 2, rel=1e-9)
    assert exact[1][0] == OWN[1][0]


def test_frequency_aware_follows_the_papers_formula():
    width = sum(AXES)
    expected = []
    d_target = width * math.log(64 / (2 * math.pi), BASE)
    for place in range(AXES[1] // 2):
        e = width * 2 * place / AXES[1]
        grown = BASE * 2 ** (width / d_target)
        expected.append(max(grown ** (-e / width), BASE ** (-e / width) / 2))
    assert rates(FrequencyAwareScaling)[1].tolist() == pytest.approx(expected, rel=1e-9)
    # the wave at the target is as long as the trained side
    assert 2 * math.pi * BASE ** target_freq_index(64, BASE) == pytest.approx(64)


def test_frequency_aware_interpolates_if_no_wavelength_fits():
    close(rates(FrequencyAwareScaling, lengths=(1, 12, 12), trained=(1, 6, 6)), rates(PositionInterpolation))


@pytest.mark.parametrize("time", [0.0, 0.01, 0.2, 0.7, 1.0])
def test_time_aware_follows_the_papers_formula(time):
    width = sum(AXES)
    d_t = (width - 1) * time + 1
    expected = []
    for place in range(AXES[1] // 2):
        e = width * 2 * place / AXES[1]
        expected.append(max(BASE ** (-e / width) * 2.0 ** (-e / d_t), BASE ** (-e / width) / 2))
    assert rates(TimeAwareScaling, time)[1].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("time", [0.0, 0.2, 1.0])
def test_first_index_one_shifts_time_aware_by_one_frequency(time):
    width = sum(AXES)
    d_t, step = (width - 1) * time + 1, width * 2 / AXES[1]
    expected = []
    for place in range(AXES[1] // 2):
        own = BASE ** (-step * place / width)
        expected.append(max(own * 2.0 ** (-step * (place + 1) / d_t), own / 2))
    assert rates(TimeAwareScaling, time, first_index=1)[1].tolist() == pytest.approx(expected, rel=1e-9)


def test_first_index_one_interpolates_all_frequencies_at_noise_and_the_last_at_data():
    close(rates(TimeAwareScaling, 0.0, first_index=1), rates(PositionInterpolation))
    assert float(rates(TimeAwareScaling, 1.0, first_index=1)[1][-1]) == pytest.approx(float(OWN[1][-1]) / 2, rel=1e-9)


def test_first_index_one_changes_the_first_frequency_of_frequency_aware():
    assert float(rates(FrequencyAwareScaling)[1][0]) == float(OWN[1][0])
    assert float(rates(FrequencyAwareScaling, first_index=1)[1][0]) < float(OWN[1][0])


def test_time_aware_begins_as_interpolation_and_ends_as_ntk():
    assert torch.allclose(rates(TimeAwareScaling, 0.0)[1][1:], OWN[1][1:] / 2)
    close(rates(TimeAwareScaling, 1.0), rates(NTKScaling))


def test_time_aware_is_finite_at_noise_for_huge_sizes():
    got = rates(TimeAwareScaling, 0.0, lengths=(1, 64e6, 64))
    assert got[1].isfinite().all()
    assert float(got[1][1]) == pytest.approx(float(OWN[1][1]) / 1e6, rel=1e-9)


@pytest.mark.parametrize(
    ("time", "same"),
    [(0.0, PositionInterpolation), (0.2999, PositionInterpolation), (0.3, NTKScaling), (1.0, NTKScaling)],
)
def test_the_watershed_switches_strictly_below_its_time(time, same):
    close(rates(SwitchScaling, time), rates(same))


def test_yarn_keeps_short_waves_interpolates_long_ones_and_sharpens():
    got = rates(YaRN, beta_slow=1.0, beta_fast=4.0)[1]
    waves = 64 * OWN[1] / (2 * math.pi)
    assert torch.equal(got[waves >= 4], OWN[1][waves >= 4])
    assert torch.allclose(got[waves <= 1], OWN[1][waves <= 1] / 2)
    canvas = RopeContext((1.0, 128.0, 128.0), (1.0, 64.0, 64.0), BASE, sum(AXES))
    assert YaRN(YaRN.Config()).attn_scale(canvas) == pytest.approx((0.1 * math.log(2) + 1) ** 2)


@pytest.mark.parametrize("of", ["ntk", "interpolation", "yarn"])
def test_dype_has_no_effect_at_data_and_is_strong_at_noise(of):
    if of != "yarn":  # its thresholds close to one wave there, and longer waves stay interpolated
        close(rates(DyPE, 1.0, method=of), OWN)
    early, late = (rates(DyPE, time, method=of)[1] for time in (0.1, 0.9))
    assert (early <= late + 1e-12).all() and (early < late).any()


def test_dype_at_noise_scales_by_the_square_of_the_ratio():
    close(rates(DyPE, 0.0, method="interpolation")[1:], tuple(own / 4 for own in OWN[1:]))
    close(rates(DyPE, 0.0), rates(NTKScaling, lengths=(1, 256, 256), exact=True))


@pytest.mark.parametrize("scaling_class", METHODS[1:], ids=lambda scaling_class: scaling_class.__name__)
def test_a_missing_training_size_is_reported_with_the_option_to_set(scaling_class):
    with pytest.raises(ConfigError, match=r"train_size: got none.* NAME:train_size=SIDE"):
        rates(scaling_class, trained=None)


def test_no_scaling_needs_no_training_size():
    close(rates(NoScaling, trained=None), OWN)


@pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_measures_lengths_and_takes_other_frequencies(build):
    model = build()
    large, small = make_tokens(4, 6), make_tokens(2, 3)
    canvas = model.rope_context(large, small)
    assert canvas.lengths == ((1.0, 4.0, 6.0) if build is next_dit else (24.0, 1.0, 1.0))
    assert canvas.train_lengths == ((1.0, 2.0, 3.0) if build is next_dit else (6.0, 1.0, 1.0))
    half = tuple(own / 2 for own in model.frequencies())
    with torch.no_grad():
        plain = model(large, make_times(1), make_condition(1)).hidden_states
        prepared = model.precompute(large, make_condition(1))
        again = model.update_rope(prepared, large, make_condition(1), half)
        scaled = model(large, make_times(1), make_condition(1), precomputed=again).hidden_states
        expected = model(
            large, make_times(1), make_condition(1), precomputed=model.precompute(large, make_condition(1), half)
        ).hidden_states
    assert torch.equal(scaled, expected)
    assert float((scaled - plain).abs().max()) > 1e-3
