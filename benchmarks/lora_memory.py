"""Memory of a training step: all weights of a model, and a LoRA of it, each in a process of its own.

python benchmarks/lora_memory.py [--batch-size 24] [--steps 3] prints one JSON line per training: the peak of the
resident memory above that of the process with torch, peft and the data, before the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TRAININGS = {
    "all weights": ["training.optimizer=adamw"],
    "lora": ["training.adapter={rank: 16}"],
    "lora, checkpointing": ["training.adapter={rank: 16}", "backbone.gradient_checkpointing=true"],
    "all weights, checkpointing": ["training.optimizer=adamw", "backbone.gradient_checkpointing=true"],
}


def resident_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak(threading.Thread):
    """Highest resident memory, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._running = resident_bytes(), True

    def run(self) -> None:
        while self._running:
            self.bytes = max(self.bytes, resident_bytes())
            time.sleep(0.002)

    def stop(self) -> int:
        self._running = False
        self.join()
        return self.bytes


def measure(name: str, batch_size: int, steps: int) -> None:
    import peft  # noqa: F401  # its own memory is not that of the training
    import torch

    from lumina_core import Recipe, Trainer
    from lumina_core.model import build_dataset
    from lumina_core.plugins.loader import load_plugins

    registry = load_plugins()
    common = [
        f"training.global_batch_size={batch_size}", "training.compile=false", "training.mixed_precision=float32",
        "base_model=image.emoji", "training.lr_overrides={}", f"training.steps={steps}",
    ]  # fmt: skip
    recipe = Recipe.load("image.emoji", [*common, *TRAININGS[name]], registry)
    dataset = build_dataset(recipe, registry)
    dataset.images()  # type: ignore[attr-defined]
    torch.ones(64, 64) @ torch.ones(64, 64)
    with tempfile.TemporaryDirectory() as folder:
        start, peak = resident_bytes(), Peak()
        peak.start()
        trainer = Trainer(recipe, Path(folder) / "run", dataset, device="cpu", registry=registry)
        for batch in trainer.batches():
            trainer.train_step(batch)
        highest = peak.stop()
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        trainer.close()
    result = {"training": name, "batch_size": batch_size, "trained": trainable, "mib": round((highest - start) / 2**20)}
    print(json.dumps(result | {"mib_of_process": round(highest / 2**20)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=TRAININGS)
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.batch_size, args.steps)
        return
    for name in TRAININGS:
        size = ["--batch-size", str(args.batch_size), "--steps", str(args.steps)]
        subprocess.run([sys.executable, __file__, "--only", name, *size], check=True)


if __name__ == "__main__":
    main()
