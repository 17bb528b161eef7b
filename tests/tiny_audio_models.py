"""Tiny networks that listen, in the forms in which their makers publish them; drawn at random."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def vggish(file: Path) -> Path:
    """VGGish with two channels a layer, under torchvggish's names."""
    torch.manual_seed(0)
    convolutions = {place: (2, 1 if place == 0 else 2, 3, 3) for place in (0, 3, 6, 8, 11, 13)}
    dense = {0: (8, 2 * 6 * 4), 2: (8, 8), 4: (4, 8)}
    weights = {}
    for part, layers in (("features", convolutions), ("embeddings", dense)):
        for place, shape in layers.items():
            weights[f"{part}.{place}.weight"] = torch.randn(shape) * 0.5
            weights[f"{part}.{place}.bias"] = torch.randn(shape[0]) * 0.1
    torch.save(weights, file)
    return file


class Cnn14(nn.Module):
    """PANNs' Cnn14 made narrow, written as torch's own layers."""

    def __init__(self, bands: int = 64, wide: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(bands)
        for number in range(1, 7):
            block = nn.Module()
            block.conv1 = nn.Conv2d(1 if number == 1 else wide, wide, 3, padding=1, bias=False)
            block.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
            block.bn1, block.bn2 = nn.BatchNorm2d(wide), nn.BatchNorm2d(wide)
            setattr(self, f"conv_block{number}", block)
        self.fc1, self.fc_audioset = nn.Linear(wide, 6), nn.Linear(6, classes)

    def forward(self, decibels: Tensor) -> Tensor:
        """(B, 1, T, bands) -> (B, classes) logits."""
        x = self.bn0(decibels.transpose(1, 3)).transpose(1, 3)
        for number in range(1, 7):
            block = getattr(self, f"conv_block{number}")
            x = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
            x = nn.functional.avg_pool2d(x, 2 if number < 6 else 1)
        x = x.mean(3)
        return self.fc_audioset(torch.relu(self.fc1(x.max(2).values + x.mean(2))))


def panns(file: Path) -> tuple[Path, Cnn14, Tensor]:
    """A narrow Cnn14 at 16 kHz as PANNs' checkpoints are; the network, and its mel bank (257, 64)."""
    torch.manual_seed(0)
    network = Cnn14().eval()
    network.fc1.bias.data.fill_(2)  # so few would all be cut off by the ReLU
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    bank = torch.rand(257, 64)
    weights = {**network.state_dict(), "logmel_extractor.melW": bank}
    weights["spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(257, 1, 512)
    torch.save({"iteration": 1, "model": weights}, file)
    return file, network, bank


def clap(folder: Path) -> Path:
    """A very small CLAP, with tokenizer and front end."""
    import transformers

    torch.manual_seed(0)
    text = transformers.ClapTextConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=20, projection_dim=8,
    )  # fmt: skip
    audio = transformers.ClapAudioConfig(
        spec_size=128, num_mel_bins=64, patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[1, 1],
        hidden_size=16, window_size=4, patch_size=4, patch_stride=[4, 4], projection_dim=8, num_hidden_layers=2,
        enable_patch_fusion=False, enable_fusion=False,
    )  # fmt: skip
    config = transformers.ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
    transformers.ClapModel(config).save_pretrained(folder)
    letters = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    letters |= {letter: 5 + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
    transformers.RobertaTokenizer(vocab=letters, merges=[], model_max_length=18).save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", max_length_s=2).save_pretrained(folder)
    return folder
