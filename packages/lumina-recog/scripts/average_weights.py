"""Average the weights of two classifiers of one training: a fine-tuned model and the one that it began with.

    python packages/lumina-recog/scripts/average_weights.py recog.emoji runs/more/model --share 0.25 --out runs/average

(Wortsman et al., arXiv 2109.01903.) The result has the recipe and the temperatures of the first model: fit them anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import lumina_core
from lumina_core.model_dir import save_model


def main() -> None:
    """Load both, average, and save in float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="name or folder of a model")
    parser.add_argument("second", help="name or folder of a model of the same architecture")
    parser.add_argument("--share", type=float, default=0.5, help="of the second model, 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, other = (lumina_core.load_model(name).float() for name in (args.first, args.second))
    weights = other.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.lerp_(weights[name], args.share)
    save_model(model, args.out, dtype=torch.float16)


if __name__ == "__main__":
    main()
