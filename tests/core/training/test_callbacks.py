"""metrics.csv: one row per step, none twice, also after an interruption."""

from __future__ import annotations

import csv
import os

import pytest
import torch
from core import toy
from core.toy import recipe
from core.training.test_trainer import train
from PIL import Image

from lumina_core.training.callbacks import MetricLogger, StepMetrics, thread_note


def rows(out):
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(out, start, steps, **terms):
    logger = MetricLogger(out)
    logger.open(start)
    for step in steps:
        logger.log(StepMetrics(step, step / 3, 1.0, 1e-4, 0.1, 640.0, terms))


def test_every_step_has_a_row_under_one_header(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["1", "2", "3"]
    assert float(found[2]["loss"]) == 1.0
    measured = ["samples_per_second", "tokens_per_second", "memory_bytes", "data_seconds", "seconds_left"]
    assert list(found[0]) == ["step", "loss", "grad_norm", "step_seconds", "lr", *measured]
    assert (float(found[0]["lr"]), float(found[0]["samples_per_second"])) == (1e-4, 640)


def test_rows_after_the_checkpoint_are_replaced(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    write(tmp_path, 3, [4, 5, 6])
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


def test_a_partial_row_is_deleted(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("3,0.1")
    write(tmp_path, 2, [3])
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
        ("1", "0.33333333"),
        ("2", "0.66666667"),
        ("3", "1"),
    ]


def test_a_training_that_starts_again_starts_the_file_again(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [1])
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_a_term_that_occurs_later_adds_a_column(tmp_path):
    logger = MetricLogger(tmp_path)
    logger.open(0)
    for step, terms in ((1, {}), (2, {"contrast": 0.5})):
        logger.log(StepMetrics(step, 1.0, 1.0, 1e-4, 0.1, 640.0, terms))
    write(tmp_path, 2, [3], error=0.25)
    assert [(row["step"], row["contrast"], row["error"]) for row in rows(tmp_path)] == [
        ("1", "", ""),
        ("2", "0.5", ""),
        ("3", "", "0.25"),
    ]


def test_samples_with_captions_and_the_learning_rate_are_in_tensorboard(tmp_path, monkeypatch):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (len(items) * 4, 3), "red").save(folder / f"{name}.png")
        return folder / f"{name}.png"

    monkeypatch.setattr(toy.Make, "save_grid", save_grid)
    requests = [{"word": "low"}, {"word": "high"}]
    train(tmp_path, recipe("word", steps=2, lr=0.25, warmup_steps=0, sample_interval=2, sample_requests=requests))
    found = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.value for event in found.Scalars("lr")] == pytest.approx([0.25, 0.25])
    (image,) = found.Images("samples")
    assert (image.step, image.width, image.height) == (2, 8, 3)
    (text,) = found.Tensors("samples/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "1. word=low\n2. word=high"


@pytest.mark.parametrize(
    ("threads", "processes", "load", "noted"),
    [(4, 1, 0.2, None), (4, 1, 3.0, "4 threads on 4 cores with a load of 3.0"), (1, 4, 9.0, None),
     (4, 2, 0.0, "2 processes of 4 threads on 4 cores"), (2, 1, 1.0, None)],
)  # fmt: skip
def test_threads_that_fight_are_noted(monkeypatch, threads, processes, load, noted):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    note = thread_note()
    assert (note is None) if noted is None else (noted in note and "OMP_NUM_THREADS=1" in note)
