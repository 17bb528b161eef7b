"""A sound is brought nearer to a spectrogram, and one that fits already stays."""

from __future__ import annotations

import torch
from audio.tones import chord, tone

from lumina_audio.mel import MelConfig, MelSpectrogram, overlap_add, refine_to_mel
from lumina_audio.vocoders.loss import stft_loss

FRONT = MelSpectrogram(MelConfig(min_amplitude=1e-4))


def test_windows_that_were_taken_apart_are_laid_together_again():
    sound = chord(4096)
    spectrum = torch.stft(FRONT.pad(sound), 1024, 256, window=FRONT.window, center=False, return_complex=True)
    assert torch.allclose(overlap_add(spectrum.transpose(1, 2), FRONT.window, 256), sound, atol=1e-5)


def test_what_a_vocoder_missed_of_the_bands_is_put_right_a_little_more_each_round():
    sound = chord()
    wanted, dull = FRONT(sound), torch.cat([tone(196.0, partials=1), 0.2 * tone(523.25)])[:, None]
    dull = dull + 0.003 * torch.randn(dull.shape, generator=torch.Generator().manual_seed(0))
    off = [float((FRONT(refine_to_mel(dull, wanted, FRONT, rounds)) - wanted).abs().mean()) for rounds in (0, 1, 4)]
    assert off[0] > 2 * off[1] > 2 * off[2]
    assert stft_loss(refine_to_mel(dull, wanted, FRONT, 4), sound).mean() < 0.7 * stft_loss(dull, sound).mean()


def test_a_sound_that_has_its_spectrogram_stays_as_it_is():
    sound = chord()
    assert torch.allclose(refine_to_mel(sound, FRONT(sound), FRONT, 3), sound, atol=1e-4)
