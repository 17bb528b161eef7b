"""The log: a row a step, none twice, also after a run was cut off."""

from __future__ import annotations

import csv

from lumina_core.train.log import Log


def rows(folder):
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(folder, done, steps):
    with Log(folder, done, 10, quiet=True) as log:
        for step in steps:
            log.write(step, {"loss": step / 3, "gradient": 1.0, "seconds": 0.1})


def test_every_step_has_a_row_under_one_header(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["1", "2", "3"]
    assert float(found[2]["loss"]) == 1.0
    assert list(found[0]) == ["step", "loss", "gradient", "seconds"]


def test_rows_after_the_checkpoint_are_written_anew(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    write(tmp_path, 3, [4, 5, 6])
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


def test_a_row_that_was_cut_off_in_the_midst_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "log.csv").open("a", encoding="utf-8") as file:
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
