"""The words' half learns to foretell latents. python words.py OUT --ae runs/ae1/model --minutes 15"""
import argparse, csv, pathlib, random, time, copy
import torch, torch.nn.functional as F
import common as C
from lumina_core.plugins.loader import load
from lumina_core.recipe import load_recipe
from lumina_core.model import build_model, build_dataset
from lumina_core.checkpoint import save_model, fitting
from lumina_core.folders import open_folder
from lumina_core.weights.pieces import read
import lumina_image
p = argparse.ArgumentParser(); a = p.add_argument
a("out"); a("--recipe", default="words17.yaml"); a("--ae"); a("--init", default=str(pathlib.Path(lumina_image.__file__).parent / "models/emoji")); a("--minutes", type=float, default=15)
a("--batch", type=int, default=256); a("--rate", type=float, default=1e-3); a("--embedding", type=float, default=5e-3); a("--muon-rate", type=float, default=2e-3)
a("--decay-from", type=float, default=0.2); a("--ema", type=float, default=0.995); a("--eval-every", type=float, default=4)
a("--sharpness", type=float, default=10); a("--contrast", type=float, default=0.2); a("--adam", action="store_true")
A = p.parse_args(); out = pathlib.Path(A.out); out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0); draw = random.Random(0)
reg = load(); recipe = load_recipe(C.RUNS / A.recipe); model = build_model(recipe, reg); data = build_dataset(recipe, reg)
for folder in (A.init, A.ae):
    got = {n: read(x) for n, x in fitting(model, open_folder(pathlib.Path(folder), reg).weights).items()}
    if folder == A.init: got = {n: w for n, w in got.items() if n.startswith("conditioners.")}
    model.load_state_dict(got, strict=False); print(f"{len(got)} tensors of {folder}", flush=True)
ae, text = model.autoencoder.eval().requires_grad_(False), model.conditioners["caption"]
pics = C.pictures()
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    z = torch.cat([ae.encode(pics[k:k + 128].float() / 127.5 - 1).float() for k in range(0, len(pics), 128)])
print("latents", z.shape, "mean", float(z.mean()), "std", float(z.std()), "most", float(z.abs().max()))
tok = model.tokenizer.tokens(z).values.flatten(1)  # (N, 2048)
labels = torch.tensor(data._labels); target = tok[labels]
probs = torch.tensor([data.weight(i) for i in range(len(data))])
torch.save(z, out / "latents.pt")
with torch.no_grad():  # the new reading of slots begins at the mean
    text.to_foretold.bias.zero_(); text.to_foretold.weight.mul_(0.5)
named = [(n, q) for n, q in text.named_parameters()]
mats = [] if A.adam else [q for n, q in named if q.ndim == 2 and not any(k in n for k in ("embedding", "places", "to_slots", "to_foretold"))]
ids = {id(q) for q in mats}
rest = [q for n, q in named if id(q) not in ids and "embedding" not in n]
emb = [text.embedding.weight]
opts = [torch.optim.AdamW([{"params": rest, "lr": A.rate}, {"params": emb, "lr": A.embedding}], betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
if mats: opts.append(C.Muon16(mats, A.muon_rate))
for o in opts:
    for g in o.param_groups: g["base"] = g["lr"]
ema = copy.deepcopy(text).requires_grad_(False)
refs = C.references(); places, names = C.asked_names()
def foretell(net, captions):
    with torch.no_grad(): return net.foretell(net.encode(captions)).float()
def evaluate():
    said = foretell(ema, names).flatten(1)
    err = float((said - tok[places]).square().mean()); var = float((tok[places] - tok.mean(0)).square().mean())
    lat = model.tokenizer.latent(model.tokenizer.tokens(z[:len(said)]).with_values(said.view(len(said), 16, -1)))
    with torch.no_grad(): back = C.to_levels(ae.decode(lat))
    C.sheet(back[:32], out / "sheet.png", names=names[:32])
    top1, top5 = C.retrieval(back, places, refs)
    near = (torch.cdist(said, tok).argmin(1) == places).double().mean()
    return {"unexplained": round(err / var, 4), "top1": top1, "top5": top5, "latent_top1": round(float(near), 4)}
threads = C.Threads(); spent = 0.0; step = 0; last = 0.0; acc = {}
log = open(out / "log.csv", "w", newline=""); w = None; elog = open(out / "eval.csv", "w", newline=""); ew = None
flat = tok / 1; sq = flat.square().mean(1)
alike = torch.cat([(torch.cdist(r, flat).square() / flat.shape[1]) < 1e-3 for r in target.split(256)])
flat16 = flat.bfloat16()
while spent < A.minutes * 60:
    s0 = time.time(); threads.tick(); share = spent / (A.minutes * 60)
    rate = min(1, (step + 1) / 30) * (1 if share < A.decay_from else 1 - (share - A.decay_from) / (1 - A.decay_from))
    for o in opts:
        for g in o.param_groups: g["lr"] = g["base"] * max(rate, 0.003)
    idx = torch.multinomial(probs, A.batch)
    captions = ["" if draw.random() < 0.02 else data._caption(data._records[i], draw) for i in idx.tolist()]
    want = target[idx]
    with torch.autocast("cpu", torch.bfloat16): said = text.foretell(text.encode(captions))
    said = said.float().flatten(1)
    each = (said - want).square().mean(1)
    error = each.mean()
    dist = said.square().mean(1)[:, None] + sq[None] - 2 * (said.bfloat16() @ flat16.T).float() / flat.shape[1]
    right = -A.sharpness * each
    logits = -A.sharpness * dist
    same = alike[idx]
    contrast = (torch.cat([right[:, None], logits.masked_fill(same, float("-inf"))], 1).logsumexp(1) - right).mean()
    loss = error + A.contrast * contrast
    loss.backward()
    torch.nn.utils.clip_grad_norm_(text.parameters(), 1.0, foreach=True)
    for o in opts: o.step()
    for o in opts: o.zero_grad(set_to_none=True)
    keep = min(A.ema, (1 + step) / (10 + step))
    with torch.no_grad(): torch._foreach_lerp_(list(ema.parameters()), list(text.parameters()), 1 - keep)
    step += 1; spent += time.time() - s0
    for n, v in (("error", error), ("contrast", contrast)): acc[n] = acc.get(n, 0) + float(v.detach())
    if step % 20 == 0:
        row = {"step": step, "seconds": round(spent, 1), "rate": round(rate, 4), "threads": threads.n, **{n: round(v / 20, 5) for n, v in acc.items()}}; acc = {}
        if w is None: w = csv.DictWriter(log, row); w.writeheader()
        w.writerow(row); log.flush()
    if spent - last > A.eval_every * 60 or spent >= A.minutes * 60:
        last = spent; row = {"step": step, "seconds": round(spent, 1), "captions_per_s": round(step * A.batch / spent), **evaluate()}
        if ew is None: ew = csv.DictWriter(elog, row); ew.writeheader()
        ew.writerow(row); elog.flush(); print(row, flush=True)
        held = {k: v.clone() for k, v in text.state_dict().items()}
        text.load_state_dict(ema.state_dict()); save_model(model, reg, out / "model"); text.load_state_dict(held)
