"""Shared: pictures, hold-out by family, features, figures."""
import hashlib, pathlib, torch, numpy as np
from lumina_image import emoji_pack
from lumina_image.pictures import to_tensor
from lumina_core.measures.lite0 import lite0
from lumina_core.measures.neighbours import ranks
RUNS = pathlib.Path(__file__).parent
RECORDS = emoji_pack.records()
def pictures():
    """(N,3,64,64) uint8"""
    return torch.from_numpy(np.ascontiguousarray(emoji_pack.pictures())).permute(0, 3, 1, 2).contiguous()
def held_out():
    """bool (N,): families whose base code's sha256 begins with a byte below 13 (about 5 %)."""
    return torch.tensor([hashlib.sha256(("latents" + r["base"]).encode()).digest()[0] < 13 for r in RECORDS])
def base():
    return torch.tensor([r["skin"] is None for r in RECORDS])
@torch.inference_mode()
def features(levels, chunk=32):
    net = lite0(96, "cpu", "x", "x")
    return torch.cat([net(levels[k:k + chunk]).float() for k in range(0, len(levels), chunk)]).clone()
def references():
    path = RUNS / "reference_features.pt"
    if not path.exists():
        torch.save(features(pictures()), path)
    return torch.load(path)
def to_levels(x):
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
def retrieval(levels, right, refs):
    r = ranks(features(levels), right, refs, 1e-9)
    return float((r < 1).double().mean()), float((r < 5).double().mean())
def psnr(a, b):
    """levels uint8 -> (mean of pictures' PSNR, PSNR of the mean square)"""
    mse = ((a.float() - b.float()) / 255).square().flatten(1).mean(1)
    return float((-10 * mse.clamp_min(1e-10).log10()).mean()), float(-10 * mse.mean().log10())
import time as _time
class Threads:
    """Two threads while the machine is ours, one while others (not niced) work: a barrier would wait for a starved one."""
    def __init__(self): self.last = self._read(); self.at = _time.time(); self.n = 2; torch.set_num_threads(2); self.count = {1: 0, 2: 0}
    @staticmethod
    def _read():
        v = [int(x) for x in open("/proc/stat").readline().split()[1:]]
        return v[0] + v[2]  # user and system: ours is in `nice` (a little in system)
    def tick(self):
        now = _time.time()
        if now - self.at > 0.3:
            busy = (self._read() - self.last) / 100 / (now - self.at)
            self.last, self.at = self._read(), now
            n = 1 if busy > 0.35 else 2
            if n != self.n: self.n = n; torch.set_num_threads(n)
        self.count[self.n] += 1
from lumina_core.train.muon import Muon
def orth16(x, rounds=5):
    a_, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(rounds):
        g = x @ x.mT
        x = a_ * x + (b * g + c * g @ g) @ x
    return (x.mT if tall else x).float()
class Muon16(Muon):
    """The project's Muon with convolutions flattened and the iteration in bfloat16."""
    @torch.no_grad()
    def _move(self, same, rate, momentum, weight_decay):
        up = torch.stack([self._looked_ahead(q, momentum).flatten(1) for q in same])
        turned = orth16(up); scale = rate * 0.2 * max(turned.shape[-2:]) ** 0.5
        for q, u in zip(same, turned): q.mul_(1 - rate * weight_decay).add_(u.view(q.shape), alpha=-scale)
def sheet(levels, path, columns=8, scale=2, names=None):
    from PIL import Image, ImageDraw
    n = len(levels); rows = -(-n // columns); s = 64 * scale; pad = 14 if names else 0
    im = Image.new("RGB", (columns * s, rows * (s + pad)), "white"); d = ImageDraw.Draw(im)
    for k, x in enumerate(levels):
        a = Image.fromarray(x.permute(1, 2, 0).numpy()).resize((s, s), Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)
        im.paste(a, (k % columns * s, k // columns * (s + pad)))
        if names: d.text((k % columns * s + 2, k // columns * (s + pad) + s), names[k][:22], fill="black")
    im.save(path)
def asked_names(count=200, seed=17):
    """Places of base emoji, drawn by a seed, and their English names."""
    places = torch.nonzero(base()).flatten()
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]]
    return places, [RECORDS[p]["captions"]["en"]["name"] for p in places.tolist()]
