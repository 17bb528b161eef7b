"""The log: a row a step, none twice, also after a run was cut off."""

from __future__ import annotations

import csv

from lumina_core.training.metrics import MetricLogger


def rows(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(folder, done, steps):
    with MetricLogger(folder, done, 10, quiet=True) as log:
        for step in steps:
            log.log(step, {"loss": step / 3, "grad_norm": 1.0, "step_seconds": 0.1})


def test_every_step_has_a_row_under_one_header(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["1", "2", "3"]
    assert float(found[2]["loss"]) == 1.0
    assert list(found[0]) == ["step", "loss", "grad_norm", "step_seconds"]


def test_rows_after_the_checkpoint_are_written_anew(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    write(tmp_path, 3, [4, 5, 6])
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


def test_a_row_that_was_cut_off_in_the_midst_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("3,0.1")
    write(tmp_path, 2, [3])
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
        ("1", "0.33333333"),
        ("2", "0.66666667"),
        ("3", "1"),
    ]


def test_a_run_that_begins_again_begins_the_log_again(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [1])
    assert [row["step"] for row in rows(tmp_path)] == ["1"]
