"""Trainings in several processes, for tests: python sharded_run.py SCENARIOS.json, with the environment of torchrun.

Each scenario is {"recipe": values, "out": folder, "processes": number, "port": number, "resume": bool, "stop": step,
"train": bool, "evaluate": bool}; the processes of higher ranks skip it. The training runs to the end, or stops after
step `stop` with a checkpoint. With `train`, `Trainer.train` does all of it. Otherwise the first process writes losses,
whole weights and whole averages to <out>.pt, and every process writes the bytes that it holds, the shapes of its
tokens, and with `evaluate` the report of an evaluation to <out>.<rank>.json.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from core import toy
from forked import Program

from lumina_core.evaluation.eval_set import DatasetEvalSet
from lumina_core.evaluation.evaluate import evaluate
from lumina_core.recipe import read_recipe
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.training.callbacks import averaged_weights
from lumina_core.training.distributed import full_tensor, local_tensor
from lumina_core.training.trainer import Trainer


def run(scenario):
    """Train one scenario, and write its results."""
    os.environ["MASTER_PORT"], os.environ["WORLD_SIZE"] = str(scenario["port"]), str(scenario["processes"])
    if int(os.environ["RANK"]) >= scenario["processes"]:
        return
    toy_recipe, out = read_recipe(scenario["recipe"], "toy"), Path(scenario["out"])
    with Trainer(
        toy_recipe, out, device="cpu", registry=toy.registry(), resume=scenario.get("resume", False)
    ) as trainer:
        if scenario.get("train"):
            trainer.train()
            return
        losses, shapes, report = [], [], {}
        usage = trainer._loss_module._backbone
        count = usage.count

        def record(batch):
            shapes.append([*batch.tokens.values.shape, int(batch.tokens.mask_or_ones().sum())])
            return count(batch)

        usage.count = record
        for batch in trainer.batches():
            losses.append(trainer.train_step(batch).loss)
            if trainer.step == scenario.get("stop"):
                trainer.save()
                break
        usage.count = count
        if scenario.get("evaluate"):
            from core.evaluation.test_evaluate import Distance  # needs pytest

            with averaged_weights(trainer):
                pipe, dataset = Pipeline(trainer.model, trainer.registry), DatasetEvalSet(trainer.dataset, "signal")
                options = {"num_samples": 7, "batch_size": 2, "steps": 3, "process": trainer.process}
                result = evaluate(pipe, dataset, {"d": Distance()}, **options)
            report = {"report": result.report, "previews": len(result.previews)}
        held = {
            "parameters": sum(local_tensor(p).nbytes for p in trainer.model.parameters()),
            "ema": sum(local_tensor(average).nbytes for average in trainer.ema.weights.values()),
            "optimizer": sum(
                local_tensor(value).nbytes
                for optimizer in trainer.optimizers.optimizers
                for state in optimizer.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor) and value.ndim
            ),
        }
        batch = next(iter(trainer.batches()), batch)
        trainer._forward_backward(batch)
        held["gradients"] = sum(local_tensor(p.grad).nbytes for p in trainer.model.parameters() if p.grad is not None)
        weights = {name: full_tensor(tensor).detach() for name, tensor in trainer.model.state_dict().items()}
        ema = {name: full_tensor(tensor).detach() for name, tensor in trainer.ema.weights.items()}
        rank = trainer.process.rank
    out.with_suffix(f".{rank}.json").write_text(json.dumps({"held": held, "shapes": shapes, **report}))
    if rank == 0:
        torch.save({"losses": losses, "weights": weights, "ema": ema}, out.with_suffix(".pt"))


def free_port():
    """Return a port that no process uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def launch(folder, scenarios, timeout=240):
    """Run scenarios in as many processes as they need, joined by gloo; returns exit codes and outputs."""
    world_size = max(scenario["processes"] for scenario in scenarios)
    path = folder / f"scenarios-{free_port()}.json"
    path.write_text(json.dumps([{"port": free_port(), **scenario} for scenario in scenarios]))
    shared = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    processes = [Program(__file__, path, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(world_size)]
    outputs = ["".join(process.communicate(timeout)) for process in processes]
    return [process.returncode for process in processes], outputs


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.loads(Path(sys.argv[1]).read_text()):
        run(one)
