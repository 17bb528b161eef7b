"""Recipes that cannot be right: one clear line, at once, from `check` and `train`, and nothing is written."""

from __future__ import annotations

import os
import time

import pytest
import yaml

from lumina_core.recipe import Recipe

HUGE = 10**30
SETTINGS = [
    "training.betas=[2,3]", "training.betas=[.nan,0.9]", "training.betas=[0.9,1]", "training.betas=[-0.1,0.5]",
    "training.lr=.inf", "training.lr=1e400", "training.lr=-.inf", "training.lr=.nan", "training.lr=0",
    "training.lr_overrides={a: .nan}", "training.muon_lr=.inf", "training.weight_decay=.nan", "training.max_norm=.inf",
    "training.ema_decay=.nan", "training.decay_start=.nan", "training.cond_dropout=.inf",
    f"training.seed={HUGE}", f"training.steps={HUGE}", f"training.keep_latest_k={HUGE}", "training.steps=2020-01-01",
    f"training.global_batch_size={HUGE}", "training.num_workers=1000000", f"training.cache_bytes={HUGE}",
    f"training.gradient_accumulation_steps={HUGE}", "training.warmup_steps=1e300", f"training.sample_interval={HUGE}",
    "backbone.num_layers=10000000", "backbone.num_layers=0", "backbone.hidden_size=100000000",
    "backbone.hidden_size=1000000", "backbone.num_heads=0", "backbone.num_heads=7", f"backbone.num_heads={HUGE}",
    "backbone.multiple_of=0", f"backbone.multiple_of={HUGE}", "backbone.eps=2020-01-01", "backbone.eps=.nan",
    "backbone.ffn_dim_multiplier=1e30", "backbone.ffn_dim_multiplier=-1", "backbone.rope_axes_dim=[0,0,0]",
    "backbone.rope_axes_dim=[-2,18,16]", "backbone.rope_theta=.inf", "backbone.rope_theta=0",
    "tokenizer.patch_size=0", f"tokenizer.patch_size={HUGE}", "task.image_size=0", "task.image_size=1000000",
    "conditioners.0.num_latents=100000000", "conditioners.0.vocab_size=10000000000", "conditioners.0.num_layers=999999",
    "conditioners.0.hidden_size=1000000", "conditioners.0.field=a.b", "conditioners.0.field=''",
    "conditioners.0.field=keys", "conditioners.0.field=5", f"conditioners.0.field={'x' * 300}",
    "conditioners=5", "conditioners=[]", "conditioners=[{field: caption}]", "backbone=5", "backbone.type=5",
    "head=null", "backbone=null", "objective.type=core.euler", "objective.type=../../etc", "task=",
    "sampling.steps=1e300", "sampling.steps=0", "sampling.guidance_scale=.nan", "sampling.solver=5",
    "sampling.solver=euler:step=.inf", "sampling.guidance_interval=[2,3]", "sampling.schedule.type=nope",
    "dataset=null", "dataset.type=image.folder", "dataset={type: image.folder, folder: /dev/zero}",
    "dataset={type: image.folder, folder: 5}", "schema_version=99", "schema_version=[]", "base=5", "x.y.z=5", "=", "a",
    "training.freeze=5", "training.freeze=[nothing]", "training.optimizer=sgd",
    "training.sample_requests=[5]", "training.sample_requests=5",
    "training.sample_requests=[{prompt: a, size: 5x5}]", "training.sample_requests=[{prompt: a, size: 100000x100000}]",
    "training.sample_requests=[{prompt: a, init: /dev/zero}]", "training.mixed_precision=float8",
]  # fmt: skip


def check_refused(done, folder, started):
    assert done.status in (1, 2), done
    assert done.err.startswith("Error: ") and done.err.count("\n") == 1, done.err
    assert "unexpected" not in done.err and len(done.err) < 900 and "Traceback" not in done.err
    assert time.monotonic() - started < 20
    assert os.listdir(folder) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_be_right_is_refused_in_one_line(lumina, tmp_path, setting):
    for command in (("check",), ("train", "--out", tmp_path / "run")):
        started = time.monotonic()
        done = lumina(*command, "image.tiny", "--set", setting)
        check_refused(done, tmp_path, started)


def nested(depth):
    return "a: " + "{b: " * depth + "1" + "}" * depth


FILES = {
    "deep nesting": nested(5000), "a list of lists": "a: " + "[" * 5000 + "]" * 5000, "nothing": "", "a number": "5",
    "a date": "2020-01-01", "binary": "\x00\x01", "an alias of itself": "a: &a [*a]",
    "a large value": "a: " + "x" * 3_000_000,
    "a tag that runs code": "a: !!python/object/apply:os.system ['echo hi > hacked']",
    "many aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join(['*' + chr(97 + k)] * 9)}]" for k in range(9)),
    "a long number": "schema_version: " + "9" * 10000, "a list": "- a\n- b", "a colon": ":", "tabs": "a:\n\t- b",
    "a base that is itself": "base: it.yaml", "a base that is a pipe": "base: pipe.yaml",
    "a missing base": "base: no.yaml",
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(lumina, tmp_path, kind):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.yaml")
    path = tmp_path / "in" / "it.yaml"
    path.write_text(FILES[kind])
    started = time.monotonic()
    done = lumina("train", path, "--out", tmp_path / "out" / "run")
    check_refused(done, tmp_path / "out", started)


@pytest.mark.parametrize("source", ["pipe", "/dev/zero", "/dev/null", "folder", "/proc/self/mem"])
def test_what_is_no_file_is_not_read_as_a_recipe(lumina, tmp_path, source):
    (tmp_path / "out").mkdir()
    path = source
    if source == "pipe":
        path = tmp_path / "pipe.yaml"
        os.mkfifo(path)
    elif source == "folder":
        path = tmp_path / "folder.yaml"
        path.mkdir()
    else:
        link = tmp_path / "link.yaml"
        link.symlink_to(source)
        path = link
    started = time.monotonic()
    check_refused(lumina("train", path, "--out", tmp_path / "out" / "run"), tmp_path / "out", started)


def test_two_conditioners_of_one_field_are_refused(lumina, tmp_path):
    values = Recipe.load("image.tiny").to_dict()
    values["conditioners"] = [values["conditioners"][0], dict(values["conditioners"][0])]
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(values))
    done = lumina("check", tmp_path / "it.yaml")
    assert done.status == 2 and "two conditioners of the field 'caption', expected one per field" in done.err
