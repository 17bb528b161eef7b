"""The generator on latents, wall-time schedule. python gen.py OUT --init runs/words/model --minutes 60"""
import argparse, csv, pathlib, random, time, copy
import torch
import common as C
from lumina_core.plugins.loader import load
from lumina_core.recipe import load_recipe
from lumina_core.model import build_model, build_dataset
from lumina_core.checkpoint import save_model, fitting
from lumina_core.folders import open_folder
from lumina_core.weights.pieces import read
from lumina_core.session import Session
from lumina_core.types import Batch, Condition, Tokens
from lumina_core.conditions import fitted, choose
from lumina_core.train.optimizer import _hidden_matrix
from lumina_image.patches import Patches
import lumina_image, torch._inductor.config
torch._inductor.config.cpp.dynamic_threads = True
BUILT_IN = str(pathlib.Path(lumina_image.__file__).parent / "models/emoji")
p = argparse.ArgumentParser(); a = p.add_argument
a("out"); a("--recipe", default=str(C.RUNS / "gen17.yaml")); a("--init", nargs="*", default=[]); a("--minutes", type=float, default=60); a("--batch", type=int, default=64)
a("--blocks", default=BUILT_IN, help="take the backbone's blocks from here; '' for fresh ones")
a("--rate", type=float, default=2e-3); a("--muon-rate", type=float, default=4e-3); a("--text-rate", type=float, default=0.0); a("--embedding", type=float, default=1e-3)
a("--decay-from", type=float, default=0.3); a("--ema", type=float, default=0.998); a("--eval-every", type=float, default=15); a("--drop", type=float, default=0.1)
a("--foretell", type=float, default=0.0); a("--words", type=int, default=0, help="captions beside the batch that only foretell"); a("--accumulate-from", type=float, default=2.0); a("--resume"); a("--no-compile", action="store_true"); a("--guidance", type=float, default=2.0); a("--no-eval", action="store_true"); a("--seed", type=int, default=0); a("--spent", type=float, default=0.0)
A = p.parse_args(); out = pathlib.Path(A.out); out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(A.seed); draw = random.Random(A.seed)
reg = load(); recipe = load_recipe(pathlib.Path(A.recipe)); model = build_model(recipe, reg); data = build_dataset(recipe, reg)
def take(folder, prefix):
    got = {n: read(x) for n, x in fitting(model, open_folder(pathlib.Path(folder), reg).weights).items() if n.startswith(prefix)}
    model.load_state_dict(got, strict=False); print(f"{len(got)} tensors of {folder}", flush=True)
if A.blocks: take(A.blocks, "backbone.")
for folder in A.init: take(folder, "")
model.autoencoder.eval().requires_grad_(False)
text = model.conditioners["caption"]
if not A.text_rate: text.eval().requires_grad_(False)
pics = C.pictures()
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    z = torch.cat([model.autoencoder.encode(pics[k:k + 128].float() / 127.5 - 1).float() for k in range(0, len(pics), 128)])
print("latents mean", float(z.mean()), "std", float(z.std()))
full = model.tokenizer.tokens(z)
labels = torch.tensor(data._labels); target = full.values[labels].contiguous(); positions = full.positions[:1]
coarse = Patches(Patches.Config(patch=2, channels=model.autoencoder.channels)).tokens(z).values[labels].contiguous()
probs = torch.tensor([data.weight(i) for i in range(len(data))])
groups, mats = {}, []
for n, q in model.named_parameters():
    if not q.requires_grad: continue
    spoken = n.startswith("conditioners.")
    if spoken:
        if q.ndim == 2 and not any(k in n for k in ("embedding", "places", "to_slots", "to_foretold")): mats.append((A.muon_rate * A.text_rate, q)); continue
        lr = A.embedding if "embedding" in n else A.rate * A.text_rate
    elif "gate" in n: lr = 5 * A.rate
    elif "modulation" in n or "summary" in n: lr = 2 * A.rate
    elif _hidden_matrix(n, q): mats.append((A.muon_rate, q)); continue
    else: lr = A.rate
    groups.setdefault(lr, []).append(q)
opts = [torch.optim.AdamW([{"params": v, "lr": k} for k, v in groups.items()], betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
for lr in sorted({k for k, _ in mats}): opts.append(C.Muon16([q for k, q in mats if k == lr], lr))
for o in opts:
    for g in o.param_groups: g["base"] = g["lr"]
print(f"trained {sum(q.numel() for q in model.parameters() if q.requires_grad)/1e6:.2f} M of {sum(q.numel() for q in model.parameters())/1e6:.2f} M", flush=True)
trained = [q for q in model.parameters() if q.requires_grad]
names_of = [n for n, q in model.named_parameters() if q.requires_grad]
ema = [q.detach().clone() for q in trained]
step = 0; spent = A.spent; pictures_seen = 0
if A.resume:
    got = torch.load(A.resume); model.load_state_dict(got["model"]); ema = got["ema"]; step = got["step"]; pictures_seen = got["pictures"]; spent = got["spent"]
    for o, s in zip(opts, got["opts"]): o.load_state_dict(s)
    for o in opts:
        for g in o.param_groups: g["lr"] = g["base"]
predict = model.predict if A.no_compile else torch.compile(model.predict, dynamic=False)
refs = C.references(); places, names = C.asked_names()
def evaluate(done):
    held = [q.detach().clone() for q in trained]
    with torch.no_grad(): torch._foreach_copy_(trained, ema)
    model.eval(); s = Session(model, reg); made = []; t = time.time()
    for k in range(0, len(names), 50):
        made += [x.data for x in s.ask_all([s.request(prompt=n, seed=1000 + k + i, guidance=A.guidance) for i, n in enumerate(names[k:k + 50])])]
    back = C.to_levels(torch.stack(made)); took = time.time() - t
    C.sheet(back[:32], out / f"sheet_{done}.png", names=names[:32])
    top1, top5 = C.retrieval(back, places, refs)
    p_ = C.psnr(back, pics[places])[0]
    save_model(model, reg, out / "model", torch.float16); model.train(); model.autoencoder.eval()
    if not A.text_rate: text.eval()
    with torch.no_grad(): torch._foreach_copy_(trained, held)
    return {"top1": top1, "top5": top5, "psnr": round(p_, 3), "sampling_s": round(took, 1)}
def save():
    torch.save({"model": model.state_dict(), "ema": ema, "step": step, "spent": spent, "pictures": pictures_seen, "opts": [o.state_dict() for o in opts]}, out / "state.pt.part")
    (out / "state.pt.part").replace(out / "state.pt")
threads = C.Threads(); last = spent; acc = {}
mode = "a" if A.resume else "w"
log = open(out / "log.csv", mode, newline=""); w = None; elog = open(out / "eval.csv", mode, newline=""); ew = None
generators = [torch.Generator().manual_seed(A.seed * 1000 + k) for k in range(A.batch)]
while spent < A.minutes * 60:
    s0 = time.time(); threads.tick(); share = spent / (A.minutes * 60)
    rate = min(1, (step + 1) / 50) * (1 if share < A.decay_from else 1 - (share - A.decay_from) / (1 - A.decay_from))
    for o in opts:
        for g in o.param_groups: g["lr"] = g["base"] * max(rate, 0.003)
    parts = 2 if share >= A.accumulate_from else 1; pictures_seen += parts * A.batch
    for part in range(parts):
      idx = torch.multinomial(probs, A.batch)
      captions = ["" if draw.random() < A.drop else data._caption(data._records[i], draw) for i in idx.tolist()]
      everything = idx
      if A.words and part == 0:
        more = torch.multinomial(probs, A.words); everything = torch.cat([idx, more])
        captions = captions + [data._caption(data._records[i], draw) for i in more.tolist()]
      with torch.autocast("cpu", torch.bfloat16):
        said = fitted(text.encode(captions), model.device)
        condition = Condition(memory=said.memory[:A.batch], summary=said.summary[:A.batch])
        tokens = Tokens(target[idx], positions.expand(A.batch, -1, -1), ((8, 8),) * A.batch)
        loss = model.objective.loss(predict, Batch(tokens, condition), generators).total
        total = loss
        if A.text_rate and A.foretell:
            real = torch.tensor([bool(c) for c in captions])
            guessed = (text.foretell(said).float() - coarse[everything]).square().mean((1, 2))[real].mean()
            total = loss + A.foretell * guessed; acc["guessed"] = acc.get("guessed", 0) + float(guessed.detach()) / parts
      (total / parts).backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
    for o in opts: o.step()
    for o in opts: o.zero_grad(set_to_none=True)
    keep = min(A.ema, (1 + step) / (10 + step))
    with torch.no_grad(): torch._foreach_lerp_(ema, trained, 1 - keep)
    step += 1; spent += time.time() - s0
    for n, v in (("loss", loss), ("gradient", norm)): acc[n] = acc.get(n, 0) + float(v.detach())
    if step % 20 == 0:
        row = {"step": step, "seconds": round(spent, 1), "rate": round(rate, 4), "threads": threads.n, **{n: round(v / 20, 5) for n, v in acc.items()}}; acc = {}
        if w is None:
            w = csv.DictWriter(log, row)
            if mode == "w": w.writeheader()
        w.writerow(row); log.flush()
    if spent - last > A.eval_every * 60 or spent >= A.minutes * 60:
        last = spent; save()
        row = {"step": step, "seconds": round(spent, 1), "pics_per_s": round(pictures_seen / spent, 1), **({} if A.no_eval else evaluate(step))}
        if ew is None:
            ew = csv.DictWriter(elog, row)
            if mode == "w": ew.writeheader()
        ew.writerow(row); elog.flush(); print(row, flush=True)
