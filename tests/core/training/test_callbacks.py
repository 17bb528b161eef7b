"""metrics.csv: one row per step, none twice, also after an interruption."""

from __future__ import annotations

import csv

from lumina_core.training.callbacks import MetricLogger, StepMetrics


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
