"""Baseline of point clouds after Luo and Hu (arXiv 2103.01458): PointNet encoder, concat-squash decoder.

    python benchmarks/points_baseline.py --seconds 600 --out runs/points-baseline

The points of a cloud are independent given a latent vector of the cloud, so any count can be sampled by construction.
Written from the paper (sections 3 and 4, appendix A.3): a variational encoder of the cloud, a standard normal prior of
the latent, and 100 diffusion steps with variances from 1e-4 to 0.05. Added here: the class next to the latent.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

STEPS, LATENT, CLASSES = 100, 256, 10
KL_WEIGHT = 1e-3
SCALE = 2.2
"""Latent per coordinate, as in the model that is compared."""


class PointNet(nn.Module):
    """Cloud (B, N, 3) -> mean and log variance (B, LATENT)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 128, 128, 256, 512)
        self.points = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[1:])
        self.mean = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, LATENT))
        self.log_var = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, LATENT))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for index, (layer, norm) in enumerate(zip(self.points, self.norms, strict=True)):
            x = norm(layer(x))
            x = F.relu(x) if index < len(self.points) - 1 else x
        pooled = x.amax(dim=1)
        return self.mean(pooled), self.log_var(pooled)


class ConcatSquash(nn.Module):
    """Linear layer of a point, scaled and shifted by the context: (W x + b) sigmoid(W_g c + b_g) + W_b c."""

    def __init__(self, dim_in: int, dim_out: int, context: int) -> None:
        super().__init__()
        self.layer, self.gate = nn.Linear(dim_in, dim_out), nn.Linear(context, dim_out)
        self.shift = nn.Linear(context, dim_out, bias=False)

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        return self.layer(x) * self.gate(context).sigmoid() + self.shift(context)


class Decoder(nn.Module):
    """Noise of each point of a noisy cloud, given the latent, the class and the step."""

    def __init__(self) -> None:
        super().__init__()
        sizes, context = (3, 128, 256, 512, 256, 128, 3), LATENT + CLASSES + 3
        self.layers = nn.ModuleList(ConcatSquash(a, b, context) for a, b in pairwise(sizes))
        betas = torch.cat([torch.zeros(1), torch.linspace(1e-4, 0.05, STEPS)])
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alpha_bars", torch.cumprod(1 - betas, dim=0), persistent=False)

    def forward(self, x: Tensor, beta: Tensor, latent: Tensor, label: Tensor) -> Tensor:
        time_embed = torch.stack([beta, beta.sin(), beta.cos()], dim=-1)
        context = torch.cat([time_embed, latent, F.one_hot(label, CLASSES).to(latent)], dim=-1)[:, None]
        out = x
        for index, layer in enumerate(self.layers):
            out = layer(context, out)
            out = F.leaky_relu(out) if index < len(self.layers) - 1 else out
        return x + out

    def loss(self, x: Tensor, latent: Tensor, label: Tensor) -> Tensor:
        step = torch.randint(1, STEPS + 1, (len(x),), device=x.device)
        alpha_bar, noise = self.alpha_bars[step][:, None, None], torch.randn_like(x)
        noisy = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
        return F.mse_loss(self(noisy, self.betas[step], latent, label), noise)

    @torch.no_grad()
    def sample(self, latent: Tensor, label: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return clouds (B, count, 3) of latents (B, LATENT) and labels (B,), in coordinates times SCALE."""
        shape, device = (len(latent), count, 3), latent.device
        x = torch.randn(shape, device=device, generator=generator)
        for step in range(STEPS, 0, -1):
            beta, alpha_bar, previous = self.betas[step], self.alpha_bars[step], self.alpha_bars[step - 1]
            noise = torch.randn(shape, device=device, generator=generator) if step > 1 else torch.zeros_like(x)
            predicted = self(x, beta.expand(len(x)), latent, label)
            deviation = (beta * (1 - previous) / (1 - alpha_bar)).sqrt()
            x = (x - beta / (1 - alpha_bar).sqrt() * predicted) / (1 - beta).sqrt() + deviation * noise
        return x


class LuoHu(nn.Module):
    """Variational autoencoder of clouds whose decoder is a diffusion of independent points."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = PointNet(), Decoder()

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """Loss of clouds (B, N, 3), in coordinates times SCALE, with labels (B,)."""
        mean, log_var = self.encoder(x)
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(dim=1).mean()
        return self.decoder.loss(x, latent, label) + KL_WEIGHT * divergence


def main() -> None:
    from lumina_3d.points.dataset import FamilyClouds

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", type=int, default=2000)
    args = parser.parse_args()
    dataset, start = FamilyClouds(FamilyClouds.Config(per_family=args.shapes // CLASSES)), time.time()
    clouds = torch.stack([dataset.cloud(index, 2048).T * SCALE for index in range(len(dataset))])
    labels = torch.tensor([dataset.shape(index).label for index in range(len(dataset))])
    model = LuoHu()
    optimizer, step = torch.optim.Adam(model.parameters(), lr=1e-3), 0
    while (elapsed := time.time() - start) < args.seconds:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - 0.95 * elapsed / args.seconds)
        rows = torch.randint(len(clouds), (64,))
        columns = torch.randint(2048, (64, 256))
        loss = model.loss(clouds[rows[:, None], columns], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{elapsed:.0f} s, step {step}, loss {float(loss):.4f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(model.decoder.state_dict(), args.out / "decoder.safetensors")


if __name__ == "__main__":
    main()
