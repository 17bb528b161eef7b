"""Train the autoencoder of drawings: wall-time schedule. python ae.py OUT --minutes 10 ..."""
import argparse, csv, math, pathlib, time, copy
import torch, torch.nn.functional as F
from torch import nn
import common as C
from lumina_core.train.muon import Muon, orthogonal
from lumina_image.autoencoder import SmallAutoencoder
p = argparse.ArgumentParser(); a = p.add_argument
a("out"); a("--minutes", type=float, default=10); a("--batch", type=int, default=64)
a("--channels", type=int, default=32); a("--width", type=int, default=64); a("--fold", type=int, default=1)
a("--halvings", type=int, default=2); a("--blocks", type=int, default=1); a("--decoder-blocks", type=int, default=2)
a("--noise", type=float, default=0.05); a("--noise-most", type=float, default=0.0)
a("--edges", type=float, default=0.5); a("--squares", type=float, default=1.0); a("--features", type=float, default=0.0); a("--features-from", type=float, default=0.0); a("--features-share", type=float, default=0.25)
a("--decoder-only", action="store_true"); a("--equivariance", type=float, default=0.0); a("--optimizer", default="muon"); a("--rate", type=float, default=2e-3); a("--muon-rate", type=float, default=4e-3)
a("--decay-from", type=float, default=0.3); a("--ema", type=float, default=0.998); a("--seed", type=int, default=0)
a("--init"); a("--warmup", type=int, default=50); a("--eval-every", type=float, default=4.0); a("--all", action="store_true")
A = p.parse_args()
out = pathlib.Path(A.out); out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(A.seed)
pics, held = C.pictures(), C.held_out()
train = pics[~held] if not A.all else pics
cfg = SmallAutoencoder.Config(channels=A.channels, width=A.width, fold=A.fold, halvings=A.halvings, blocks=A.blocks, decoder_blocks=A.decoder_blocks, noise=A.noise, edges=A.edges)
m = SmallAutoencoder(cfg)
if A.init:
    got, own = torch.load(A.init)["ema"], m.state_dict()
    got = {n: w for n, w in got.items() if own[n].shape == w.shape}
    m.load_state_dict(got, strict=False); print(f"{len(got)} of {len(own)} tensors of {A.init}")
m = m.to(memory_format=torch.channels_last)
if A.decoder_only: m.encoder.requires_grad_(False)
print(f"{sum(x.numel() for x in m.parameters())/1e6:.2f} M parameters; {len(train)} pictures, {int(held.sum())} held out", flush=True)
class ConvMuon(Muon):
    def _looked_ahead(self, parameter, momentum):
        return super()._looked_ahead(parameter, momentum).flatten(1)
    def _move(self, same, rate, momentum, weight_decay):
        up = torch.stack([self._looked_ahead(q, momentum) for q in same])
        turned = orth16(up); scale = rate * 0.2 * max(turned.shape[-2:]) ** 0.5
        for q, u in zip(same, turned): q.add_(u.view(q.shape), alpha=-scale)
def orth16(x, rounds=5):
    a_, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(rounds):
        g = x @ x.mT
        x = a_ * x + (b * g + c * g @ g) @ x
    return (x.mT if tall else x).float()
named = [(n, q) for n, q in m.named_parameters() if q.requires_grad]
ends = {"encoder.0.weight", f"encoder.{len(m.encoder)-1}.weight", f"decoder.{len(m.decoder)-1}.weight"}
mats = [q for n, q in named if q.ndim == 4 and n not in ends] if A.optimizer == "muon" else []
ids = {id(q) for q in mats}
opts = [torch.optim.AdamW([q for _, q in named if id(q) not in ids], lr=A.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
if mats: opts.append(ConvMuon(mats, A.muon_rate))
base_rates = [o.param_groups[0]["lr"] for o in opts]
ema = copy.deepcopy(m).requires_grad_(False)
def augment(x):
    """uint8 (B,3,64,64) -> [-1,1]; flips, whole-pixel shifts, some scaled or with colours turned."""
    x = x.float() / 127.5 - 1
    B = len(x)
    flip = torch.rand(B) < 0.5
    x[flip] = x[flip].flip(-1)
    v = torch.rand(B) < 0.15
    x[v] = x[v].flip(-2)
    for k in torch.nonzero(torch.rand(B) < 0.2).flatten().tolist():
        x[k] = x[k, torch.randperm(3)]
    scaled = torch.rand(B) < 0.25
    n = int(scaled.sum())
    if n:
        s = torch.exp((torch.rand(n) * 2 - 1) * math.log(1.6)); th = (torch.rand(n) - 0.5) * 0.6
        mat = torch.zeros(n, 2, 3); mat[:, 0, 0] = s * th.cos(); mat[:, 0, 1] = -s * th.sin(); mat[:, 1, 0] = s * th.sin(); mat[:, 1, 1] = s * th.cos()
        mat[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.4
        x[scaled] = F.grid_sample(x[scaled] - 1, F.affine_grid(mat, (n, 3, 64, 64), align_corners=False), mode="bicubic", align_corners=False).add(1).clamp(-1, 1)
    r = 8
    padded = F.pad(x, (r, r, r, r), value=1.0)
    dx, dy = torch.randint(0, 2 * r + 1, (2, B)).tolist()
    return torch.stack([padded[k, :, dy[k]:dy[k] + 64, dx[k]:dx[k] + 64] if k % 4 else x[k] for k in range(B)])
net = None
def deep(x, y):
    """Distance of EfficientNet-Lite0's features at several depths (96 px)."""
    global net
    if net is None:
        import timm
        from lumina_core.measures.lite0 import lite0_weights
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        own = [n for n in net.state_dict() if not n.endswith("num_batches_tracked")]
        net.load_state_dict(dict(zip(own, lite0_weights("x", "x").values())), strict=False)
        net.reset_classifier(0); net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    def look(z):
        z = F.interpolate(z.float(), (96, 96), mode="bicubic", antialias=True).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        z = net.bn1(net.conv_stem(z)); kept = []
        for i, b in enumerate(net.blocks):
            z = b(z)
            if i in (0, 1, 2, 4): kept.append(z)
        kept.append(net.global_pool(net.bn2(net.conv_head(z))))
        return kept
    with torch.no_grad(): wanted = look(y)
    total = 0
    for g, w in zip(look(x), wanted):
        g, w = g.float(), w.float()
        total = total + (g - w).square().mean() / w.var().clamp_min(1e-6)
    return total / len(wanted)
def differences(e):
    return (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
@torch.no_grad()
def encode(model, x, chunk=128):
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([model._raw((x[k:k+chunk].float()/127.5-1).contiguous(memory_format=torch.channels_last)).float() for k in range(0, len(x), chunk)])
@torch.no_grad()
def decode(model, z, chunk=128):
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([model.decode(z[k:k+chunk]).float() for k in range(0, len(z), chunk)])
refs = C.references()
held_places = torch.nonzero(held).flatten(); kept_places = torch.nonzero(~held & C.base()).flatten()
gen = torch.Generator().manual_seed(5); seen_places = kept_places[torch.randperm(len(kept_places), generator=gen)[:200]]
def evaluate(model, few=True):
    mean_raw = encode(model, pics[torch.randperm(len(pics), generator=torch.Generator().manual_seed(1))[:1500]] if few else pics)
    if not A.decoder_only: model.mean.copy_(mean_raw.mean((0, 2, 3))); model.variance.copy_(mean_raw.var((0, 2, 3)))
    said = {}
    for name, places in (("held", held_places), ("seen", seen_places)):
        z = F.batch_norm(encode(model, pics[places]), model.mean, model.variance)
        back = C.to_levels(decode(model, z))
        said[f"{name}_psnr"], said[f"{name}_psnr_of_mean"] = C.psnr(back, pics[places])
        said[f"{name}_top1"], said[f"{name}_top5"] = C.retrieval(back, places, refs)
        b = C.base()[places]
        said[f"{name}_base_top1"] = C.retrieval(back[b], places[b], refs)[0]
        if name == "held":
            noisy = C.to_levels(decode(model, z + 0.2 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2))))
            said["held_psnr_noise0.2"] = C.psnr(noisy, pics[places])[0]
    return said
def save(done, said):
    torch.save({"ema": ema.state_dict(), "model": m.state_dict(), "config": cfg.model_dump(), "said": said, "step": done}, out / "last.pt.part")
    (out / "last.pt.part").replace(out / "last.pt")
log = open(out / "log.csv", "w", newline=""); w = None; elog = open(out / "eval.csv", "w", newline=""); ew = None
t0 = time.time(); spent = 0.0; last_eval = 0.0; step = 0; order = torch.randperm(len(train)); at = 0; acc = {}
threads = C.Threads()
probs = torch.where(C.base()[~held] if not A.all else C.base(), 1.0, 0.5)
while spent < A.minutes * 60:
    s0 = time.time(); threads.tick()
    share = spent / (A.minutes * 60)
    rate = min(1, (step + 1) / A.warmup) * (1 if share < A.decay_from else 1 - (share - A.decay_from) / (1 - A.decay_from))
    for o, b in zip(opts, base_rates): o.param_groups[0]["lr"] = b * max(rate, 0.005)
    x = augment(train[torch.multinomial(probs, A.batch)]).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not A.decoder_only): raw = m._raw(x)
        z = F.batch_norm(raw.float(), m.mean, m.variance, training=not A.decoder_only, momentum=0.05)
        sigma = A.noise + (A.noise_most - A.noise) * torch.rand(len(x), 1, 1, 1) if A.noise_most else A.noise
        y = m.decode(z + sigma * torch.randn_like(z))
        if A.equivariance:
            k = len(x) // 2
            small = m.decode(F.avg_pool2d(z[:k], 2)).float()
    y = y.float(); e = y - x
    l1, l2, ed = e.abs().mean(), e.square().mean(), differences(e)
    loss = l1 + A.squares * l2 + A.edges * ed
    ft = torch.zeros(()); eq = torch.zeros(())
    if A.equivariance:
        eq_e = small - F.avg_pool2d(x[:k], 2); eq = eq_e.abs().mean() + eq_e.square().mean()
        loss = loss + A.equivariance * eq
    if A.features and share >= A.features_from:
        k = max(1, int(len(x) * A.features_share))
        with torch.autocast("cpu", torch.bfloat16): ft = deep(y[:k], x[:k])
        loss = loss + A.features * ft
    loss.backward()
    gn = nn.utils.clip_grad_norm_(m.parameters(), 1.0, foreach=True)
    for o in opts: o.step()
    for o in opts: o.zero_grad(set_to_none=True)
    keep = min(A.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(m.parameters()), 1 - keep)
    step += 1; spent += time.time() - s0
    for n, v in (("l1", l1), ("l2", l2), ("edges", ed), ("features", ft), ("equivariance", eq), ("gradient", gn)): acc[n] = acc.get(n, 0) + float(v.detach())
    if step % 20 == 0:
        row = {"step": step, "seconds": round(spent, 1), "rate": round(rate, 4), "threads": threads.n, **{n: round(v / 20, 6) for n, v in acc.items()}}; acc = {}
        if w is None: w = csv.DictWriter(log, row); w.writeheader()
        w.writerow(row); log.flush()
    if spent - last_eval > A.eval_every * 60 or spent >= A.minutes * 60:
        last_eval = spent
        torch.set_num_threads(threads.n); said = {"step": step, "seconds": round(spent, 1), "pics_per_s": round(step * A.batch / spent, 1), **{k: round(v, 4) for k, v in evaluate(ema, spent < A.minutes * 60).items()}}
        if ew is None: ew = csv.DictWriter(elog, said); ew.writeheader()
        ew.writerow(said); elog.flush(); print(said, flush=True)
        save(step, said)
