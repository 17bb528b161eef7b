"""Training of a classifier: mixing, jitter, distillation, resumed runs, shuffled labels."""

from __future__ import annotations

import importlib
import io
import json
import random
import tarfile

import pytest
import torch
from PIL import Image
from recog.images import class_folder, encode, load, recipe, save_classifier

import lumina_core
from lumina_core.errors import ConfigError
from lumina_core.training.trainer import Trainer
from lumina_core.types import Batch, Condition, stack_tokens
from lumina_recog.datasets.image_dataset import FolderDataset, TarDataset, TimmDataset
from lumina_recog.objective import (
    ClassificationObjective,
    cut_box,
    jitter_positions,
    same_size_partners,
    sample_beta,
    tokens_to_images,
)
from lumina_recog.patchify import Patchify

TOKENIZER = Patchify(Patchify.Config(patch_size=4, channels=3))


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def batch(sizes=((8, 8),) * 4):
    tokens = stack_tokens([TOKENIZER.patchify(torch.randn(1, 3, *size)) for size in sizes])
    return Batch(tokens, Condition(), torch.arange(len(sizes)) % 3)


def objective(**kwargs):
    return ClassificationObjective(ClassificationObjective.Config(**kwargs))


def mean_network(tokens, t, condition):
    """Logits that are linear in the tokens."""
    return tokens.values.sum(dim=1)[:, :3]


def test_mixup_mixes_images_and_labels_alike():
    seen = []

    def network(tokens, t, condition):
        seen.append(tokens.values)
        return torch.zeros(4, 3, requires_grad=True)

    one = batch()
    objective(mixup=0.8).loss(network, one, generators(4))
    values = one.tokens.values
    share = ((seen[0] - values.flip(0)) / (values - values.flip(0)))[0].mean()
    torch.testing.assert_close(seen[0], values * share + values.flip(0) * (1 - share), rtol=1e-3, atol=1e-4)
    assert 0 < share < 1


def test_only_images_of_one_size_are_mixed():
    one = batch(((8, 8), (8, 4), (8, 8), (4, 8), (8, 8)))
    assert same_size_partners(one.tokens).tolist() == [4, 1, 2, 3, 0]
    seen = []
    objective(cutmix=1.0).loss(
        lambda tokens, t, c: (seen.append(tokens.values), mean_network(tokens, t, c))[1], one, generators(5)
    )
    assert torch.equal(seen[0][1], one.tokens.values[1])
    assert torch.equal(seen[0][3], one.tokens.values[3])


def test_a_cut_box_has_about_its_share():
    tokens = TOKENIZER.patchify(torch.randn(1, 3, 80, 80))
    generator = torch.Generator().manual_seed(0)
    areas = [float(cut_box(tokens, 0.75, generator).float().mean()) for _ in range(200)]
    assert max(areas) <= 0.31
    assert 0.1 < sum(areas) / 200 < 0.25  # boxes at the edge are cut off


def test_beta_has_its_mean_and_variance():
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([sample_beta(0.8, generator) for _ in range(4000)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06)


def test_the_loss_repeats_with_its_generators_and_leaves_global_numbers_alone():
    one = batch()

    def noisy(tokens, t, condition):
        return mean_network(tokens, t, condition) + torch.randn(4, 3)

    state = torch.random.get_rng_state()
    first = objective(mixup=0.5, cutmix=0.5).loss(noisy, one, generators(4)).total
    again = objective(mixup=0.5, cutmix=0.5).loss(noisy, one, generators(4)).total
    other = objective(mixup=0.5, cutmix=0.5).loss(noisy, one, generators(4, 9)).total
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_jitter_scales_each_image_within_its_bounds():
    tokens = batch().tokens
    scaled = jitter_positions(tokens, 0.5, generators(4)).positions
    ratios = scaled[:, 3, 1:] / tokens.positions[:, 3, 1:]
    assert ((ratios > 0.6) & (ratios < 1.65)).all()
    assert len(set(ratios.flatten().tolist())) == 8


def test_smoothing_and_binary_losses_are_those_of_torch():
    one = batch()
    logits, target = mean_network(one.tokens, None, None), one.target
    torch.testing.assert_close(
        objective(label_smoothing=0.1).loss(mean_network, one, generators(4)).total,
        torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1),
    )
    torch.testing.assert_close(
        objective(binary=True).loss(mean_network, one, generators(4)).total,
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.eye(3)[target]),
    )


def test_a_label_that_the_head_does_not_have():
    one = batch()
    with pytest.raises(ConfigError, match="got classes 0 to 7, expected 0 to 2"):
        objective().loss(mean_network, Batch(one.tokens, one.condition, torch.tensor([0, 7, 1, 1])), generators(4))


def test_tokens_become_images_again():
    image = torch.randn(2, 3, 10, 6)
    assert torch.equal(tokens_to_images(TOKENIZER.patchify(image)), image)


def test_a_student_learns_the_answers_of_its_teacher(tmp_path):
    teacher = save_classifier(tmp_path / "teacher")
    model = load(teacher)
    tokenizer = model.tokenizer
    tokens = tokenizer.patchify(torch.randn(4, 3, 16, 16))
    one = Batch(tokens, Condition(), torch.tensor([0, 1, 2, 3]))
    config = {"teacher": str(teacher), "weight": 1.0}
    same = objective(distillation=config).loss(model.predict, one, generators(4)).total.detach()
    assert float(same) == pytest.approx(0, abs=1e-6)
    hard = objective(distillation={**config, "kind": "hard"}).loss(model.predict, one, generators(4)).total
    with torch.no_grad():
        logits = model.predict(tokens, None, Condition())
    expected = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1))
    torch.testing.assert_close(hard, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="expected a model folder"):
        objective(distillation={"teacher": "nothing"}).loss(model.predict, one, generators(4))


def test_a_teacher_of_timm_reads_the_pixels(tmp_path):
    pytest.importorskip("timm")
    importlib.import_module("lumina_recog.timm")  # registers the teacher
    model = lumina_core.load_model("recog.emoji")
    one = Batch(model.tokenizer.patchify(torch.rand(2, 3, 40, 48) * 2 - 1), Condition(), torch.tensor([0, 1]))
    config = {"teacher": "timm:nextdit_mini_patch8.emoji", "weight": 1.0}
    same = objective(distillation=config).loss(model.predict, one, generators(2)).total
    assert float(same.detach()) == pytest.approx(0, abs=1e-5)


def folder_recipe(tmp_path, steps, **training):
    root = class_folder(tmp_path / "data")
    return recipe(
        task={"type": "recog.classify"},
        dataset={"type": "recog.folder", "folder": str(root), "image_sizes": [[16, 16], [8, 24]], "augment": "flip"},
        head={"type": "recog.classification", "num_classes": 3, "pooling": "attention"},
        objective={"type": "recog.classification", "mixup": 0.2, "position_jitter": 0.2},
        training={
            "steps": steps, "global_batch_size": 6, "compile": False, "cond_dropout": 0, "lr": 3e-3, "ema_decay": 0.8,
            "warmup_steps": 5, "checkpoint_interval": 4, **training,
        },
    )  # fmt: skip


def test_a_trained_model_names_the_colors(tmp_path, lumina):
    out = Trainer(folder_recipe(tmp_path, 60), tmp_path / "run", device="cpu").train()
    result = lumina("evaluate", out, "--json", "--out", tmp_path / "scores", "--set", "augment=none", "--samples", 12)
    assert result.status == 0, result.err
    assert '"top1": 1.0' in result.out
    assert (tmp_path / "scores" / "report.md").read_text().count("\n") >= 10
    assert (tmp_path / "scores" / "confusion.csv").read_text().startswith("true class,blue,green,red")


def test_a_resumed_training_is_bit_exact(tmp_path):
    straight = Trainer(folder_recipe(tmp_path, 8), tmp_path / "a", device="cpu")
    straight.train()
    stopped = Trainer(folder_recipe(tmp_path, 8), tmp_path / "b", device="cpu")
    batches = stopped.batches()
    for _ in range(4):
        stopped.train_step(next(batches))
    stopped.save()
    stopped.close()
    resumed = Trainer(folder_recipe(tmp_path, 8), tmp_path / "b", device="cpu", resume=True)
    resumed.train()
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_hidden_folder_is_no_class(tmp_path):
    root = class_folder(tmp_path / "data")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "0.png").write_bytes((root / "red" / "0.png").read_bytes())
    dataset = FolderDataset(FolderDataset.Config(folder=str(root)))
    assert dataset.classes == ("blue", "green", "red")
    example = dataset.get(len(dataset) - 1, random.Random(0))
    assert example["label"] == 2
    assert example["image"].shape == (3, 20, 24)


def test_layer_decay_lowers_the_rate_from_block_to_block():
    from lumina_core.model import build_model
    from lumina_core.training.optim import build_optimizers, layer_depths

    one = recipe(training={"lr": 1e-3, "layer_decay": 0.5})
    model = build_model(one)
    names = [name for name, _ in model.named_parameters()]
    depths = layer_depths(names)
    assert depths["head.linear.weight"] == 0
    assert depths["backbone.blocks.1.attention.qkv.weight"] == 1
    assert depths["backbone.blocks.0.feed_forward.up.weight"] == 2
    assert depths["backbone.embed.weight"] == depths["backbone.position_encoding.freqs"] == 3
    rates = {
        id(parameter): group["lr"]
        for optimizer in build_optimizers(model, one.training).optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-3 * 0.5 ** depths[name])


def test_a_model_keeps_the_names_of_the_classes_and_their_order(tmp_path):
    out = Trainer(folder_recipe(tmp_path, 1), tmp_path / "run", device="cpu").train()
    assert load(out).task.config.classes == ("blue", "green", "red")
    for classes, message in ((["red", "green", "blue"], "in their order"), (["a", "b", "c"], r"\(blue ...\)")):
        one = folder_recipe(tmp_path, 1)
        one = one.model_copy(update={"task": one.task.model_copy(update={"classes": classes})})
        with pytest.raises(ConfigError, match=message):
            Trainer(one, tmp_path / "other", device="cpu").train()
    one = folder_recipe(tmp_path, 1)
    one = one.model_copy(update={"head": one.head.model_copy(update={"num_classes": 2})})
    with pytest.raises(ConfigError, match=r"head\.num_classes: got 2, expected at least 3"):
        Trainer(one, tmp_path / "other", device="cpu").train()


def test_classes_of_a_data_set_are_found_by_their_names(tmp_path, lumina):
    model = save_classifier(
        tmp_path / "model", task={"type": "recog.classify", "classes": ["red", "white", "blue", "green"]}
    )
    root = class_folder(tmp_path / "data")
    args = ("evaluate", model, "--dataset", "recog.folder", "--set", f"folder={root}", "--json")
    result = lumina(*args)
    assert result.status == 0, result.err
    confusion = json.loads(result.out.splitlines()[-1])["confusion"]
    assert [sum(row) for row in confusion] == [4, 0, 4, 4]
    (root / "red").rename(root / "violet")
    assert "got the class violet, expected those of the model: red, white" in lumina(*args).err


def test_a_class_folder_without_images_and_files_that_are_not_read_are_named(tmp_path):
    root = class_folder(tmp_path / "data")
    (root / "violet").mkdir()
    (root / "red" / "x.heic").write_text("")
    dataset = FolderDataset(FolderDataset.Config(folder=str(root)))
    assert "violet (a class without items)" in dataset.summary()
    assert "red/x.heic (files of this format (.heic) are not read" in dataset.summary()


def test_webdataset_shards_with_class_members(tmp_path):
    content = encode(Image.new("RGB", (9, 9)))
    members = {"0.png": content, "0.cls": b"3", "1.png": content, "1.txt": b"2", "2.png": content, "2.json": b"{}"}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    dataset = TarDataset(TarDataset.Config(folder=str(tmp_path)))
    assert [dataset.get(index, random.Random(0))["label"] for index in range(len(dataset))] == [3, 2]
    assert "2.png (no class: no .cls or .txt with its name)" in dataset.summary()


def test_a_damaged_file_does_not_end_a_training_with_timms_readers(tmp_path, caplog):
    pytest.importorskip("timm")
    root = class_folder(tmp_path / "data", per_class=2)
    (root / "blue" / "1.png").write_text("text")
    dataset = TimmDataset(TimmDataset.Config(root=str(root), image_sizes=((8, 8),)))
    labels = [dataset.get(index, random.Random(index))["label"] for index in range(len(dataset))]
    assert labels == [0, 1, 1, 1, 2, 2]
    assert "skipped blue/1.png" in caplog.text
    for folder in (".thumbnails", ""):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "0.png").write_bytes((root / "red" / "0.png").read_bytes())
        with pytest.raises(ConfigError, match="which timm reads as a class"):
            TimmDataset(TimmDataset.Config(root=str(root)))


@pytest.mark.parametrize("dataset", [FolderDataset, TimmDataset, TarDataset])
def test_a_size_of_no_pixel_is_refused(dataset):
    with pytest.raises(ConfigError, match="image_sizes"):
        dataset.Config.read({"folder": "x", "image_sizes": [[0, 8]]} if dataset is not TimmDataset else
                            {"image_sizes": [[0, 8]]}, "dataset")  # fmt: skip
