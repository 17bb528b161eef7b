"""python folder.py runs/ae1/last.pt OUT [--half]: the autoencoder as a model folder (recipe image.emoji_latents)."""
import sys, torch, pathlib
from lumina_core.plugins.loader import load
from lumina_core.recipe import read_recipe
from lumina_core.model import build_model
from lumina_core.checkpoint import save_model
def make(pt, out, half=False, **training):
    got = torch.load(pt); c = got["config"]
    use = {"use": "image.small", **{k: c[k] for k in ("channels", "width", "fold", "halvings", "blocks", "decoder_blocks", "noise", "edges") if c.get(k) is not None}}
    recipe = read_recipe({"task": {"use": "image.text_to_image", "side": 64}, "dataset": {"use": "image.emoji"}, "autoencoder": use,
        "tokenizer": {"use": "image.patches", "patch": 1}, "objective": {"use": "core.reconstruction"}}, "here")
    reg = load(); model = build_model(recipe, reg); model.autoencoder.load_state_dict({k: v.contiguous() for k, v in got["ema"].items()}); model.eval()
    model = model.to(memory_format=torch.contiguous_format)
    save_model(model, reg, pathlib.Path(out), torch.float16 if half else None)
    return model
if __name__ == "__main__": make(sys.argv[1], sys.argv[2], "--half" in sys.argv)
