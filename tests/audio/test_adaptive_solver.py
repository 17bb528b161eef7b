"""Inpainting with the adaptive solver dopri5."""

from __future__ import annotations

import pytest

pytest.importorskip("torchdiffeq")

import torch
from audio.tones import tone


@pytest.mark.parametrize("strength", [1, 0.7])
def test_inpainting_with_an_adaptive_solver_keeps_the_rest_exactly(pipeline, strength):
    sound, loose = tone(300.0, 9000), "dopri5:rtol=0.1,atol=0.1"
    arguments = {"prompt": "red heart", "init_audio": sound, "inpaint": "0.2-0.31", "strength": strength}
    (generated,) = pipeline(**arguments, solver=loose)
    changed = (generated.data != sound)[0].nonzero()[:, 0]
    assert 3200 <= int(changed[0]) < 3210 and 4950 < int(changed[-1]) < 4960
    assert generated.metadata["nfe"] > 6 and "steps" not in generated.metadata["settings"]
    assert not torch.equal(generated.data, pipeline(**arguments, solver="euler", steps=3)[0].data)
