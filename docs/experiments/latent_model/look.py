import sys, torch, common as C
from lumina_core.checkpoint import load_model
from lumina_core.plugins.loader import load
import pathlib
m = load_model(pathlib.Path(sys.argv[1]), load()).autoencoder
held = torch.nonzero(C.held_out() & C.base()).flatten()[:16]; x = C.pictures()[held]
with torch.no_grad(): y = C.to_levels(m.decode(m.encode(x.float()/127.5-1))); 
both = torch.stack([x, y], 1).flatten(0, 1)
C.sheet(both, sys.argv[2], columns=8); print(C.psnr(y, x))
