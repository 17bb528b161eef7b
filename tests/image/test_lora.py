"""LoRA and DoRA: training on a frozen base, files of four programs, use in a pipeline, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from making import make_model, registry_of
from PIL import Image
from safetensors.torch import load_file, save_file

from lumina_core import Pipeline, Recipe, Trainer
from lumina_core.adapters.files import _alphas, read_lora, write_lora
from lumina_core.adapters.lora import Lora, LoraWeights, add_adapter, base_hash, extract_lora, find_targets
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.model_dir import load_model
from lumina_core.recipe import AdapterConfig

peft = pytest.importorskip("peft")

TARGETS = AdapterConfig().targets
PROMPT = {"prompt": "red heart", "seed": 3, "steps": 2}


@pytest.fixture(scope="module")
def registry():
    return registry_of("image")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for color in ("red", "green", "blue", "gold"):
        Image.new("RGB", (32, 32), color).save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"{color} heart\n", encoding="utf-8")
    return folder


def recipe_of(base, pictures, **adapter):
    values = {
        "schema_version": 2,
        "base_model": str(base),
        "dataset": {"type": "image.folder", "folder": str(pictures), "image_size": 32},
        "training": {
            "steps": 4,
            "global_batch_size": 4,
            "lr": 1e-2,
            "warmup_steps": 0,
            "compile": False,
            "checkpoint_interval": 2,
            "ema_decay": 0.5,
            "sample_interval": 2,
            "sample_requests": [{"prompt": "red heart", "steps": 1}],
            "adapter": {"rank": 2, **adapter},
        },
    }
    path = pictures.parent / f"recipe-{abs(hash(json.dumps(values)))}.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.fixture
def train(tiny_folder, pictures, registry, tmp_path):
    def trained(out="run", resume=False, callbacks=(), base=None, init=(), **adapter):
        recipe = Recipe.load(recipe_of(base or tiny_folder, pictures, **adapter), registry=registry)
        trainer = Trainer(
            recipe, tmp_path / out, device="cpu", resume=resume, init=init, registry=registry, callbacks=callbacks
        )
        return trainer, trainer.train()

    return trained


def random_lora(model, method="lora", targets=TARGETS, rank=3):
    """A LoRA whose B is not zero, with alpha / rank = 2/3."""
    torch.manual_seed(1)
    other = load_model(model)
    add_adapter(other, AdapterConfig(rank=rank, alpha=2, method=method, targets=targets))
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Lora(extract_lora(other), "tiny", base_hash(other))


def are_equal(one, other):
    """Whether two LoRAs are the same, bit for bit."""
    return one.layers.keys() == other.layers.keys() and all(
        torch.equal(one.layers[name].a, other.layers[name].a)
        and torch.equal(one.layers[name].b, other.layers[name].b)
        and one.layers[name].alpha == other.layers[name].alpha
        and (one.layers[name].magnitude is None) == (other.layers[name].magnitude is None)
        and (
            one.layers[name].magnitude is None or torch.equal(one.layers[name].magnitude, other.layers[name].magnitude)
        )
        for name in one.layers
    )


def predict(model):
    from lumina_core.model import empty_tokens

    torch.manual_seed(0)
    tokens = empty_tokens(model, (32, 32), 2)
    tokens = tokens.with_values(torch.randn(tokens.values.shape))
    condition = model.encode_condition({"caption": ["red heart", "blue cat"]}, 2)
    return model.predict(tokens, torch.tensor([0.3, 0.7]), condition)


def pixels(pipe):
    return pipe(**PROMPT, output_type="latent")[0].data


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_new_adapter_changes_no_output(tiny_folder, method):
    model = load_model(tiny_folder)
    with torch.enable_grad():  # with gradients, layers with and without adapter take the same kernels
        before = predict(model)
        add_adapter(model, AdapterConfig(rank=2, method=method))
        after = predict(model)
    difference = (after - before).abs().max()
    assert difference == 0 if method == "lora" else difference < 1e-5


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_training_changes_the_adapter_alone_and_the_pipeline_loads_it(train, tiny_folder, method):
    base = load_model(tiny_folder).state_dict()
    trainer, folder = train(method=method)
    trained = trainer.model.state_dict()
    assert all(torch.equal(trained.get(name, trained.get(_wrapped(name))), value) for name, value in base.items())
    pipe = Pipeline.from_pretrained(tiny_folder)
    before = pixels(pipe)
    pipe.load_lora(folder)
    loaded = pixels(pipe)
    assert (loaded - before).abs().max() > 1e-3
    model = trainer.model.eval()
    with torch.inference_mode():
        assert torch.equal(predict(model), predict(pipe.model))  # saved and loaded: bit for bit
    pipe.fuse()
    assert torch.allclose(pixels(pipe), loaded, atol=2e-5)
    with torch.inference_mode():
        assert torch.allclose(predict(pipe.model), predict(model), atol=1e-5, rtol=1e-5)


def _wrapped(name):
    path, _, end = name.rpartition(".")
    return f"{path}.base_layer.{end}"


def test_merged_weights_are_the_formula(tiny_folder, tmp_path, registry):
    lora = random_lora(tiny_folder)
    pipe = Pipeline.from_pretrained(tiny_folder)
    weights = {name: tensor.clone() for name, tensor in pipe.model.state_dict().items()}
    write_lora(lora, tmp_path / "lora", pipe.model, registry)
    pipe.load_lora(tmp_path / "lora", 0.5)
    pipe.fuse()
    for name, tensor in pipe.model.state_dict().items():
        one = lora.layers.get(name.removesuffix(".weight"))
        update = 0 if one is None else 0.5 * one.alpha / one.rank * (one.b.double() @ one.a.double())
        assert torch.allclose(tensor.double(), weights[name].double() + update, atol=1e-6)


def test_several_loras_add_up_and_unloading_restores_the_base(tiny_folder, tmp_path, registry):
    pipe = Pipeline.from_pretrained(tiny_folder)
    before = pixels(pipe)
    one = random_lora(tiny_folder, targets=("attention.qkv", "feed_forward.out"))
    two = random_lora(tiny_folder, targets=("attention.qkv", "attention.out"), rank=5)
    for name, lora in (("one", one), ("two", two)):
        write_lora(lora, tmp_path / name, pipe.model, registry)
    pipe.load_lora(tmp_path / "one", 0.5)
    pipe.load_lora(tmp_path / "two", -1.0)
    both = pixels(pipe)
    assert [lora["weight"] for lora in pipe(**PROMPT)[0].metadata["loras"]] == [0.5, -1.0]
    summed = load_model(tiny_folder)
    with torch.no_grad():
        for lora, weight in ((one, 0.5), (two, -1.0)):
            for name, layer in lora.layers.items():
                summed.get_submodule(name).weight += weight * layer.alpha / layer.rank * layer.b @ layer.a
    assert torch.allclose(pixels(Pipeline(summed, pipe.registry)), both, atol=1e-4)
    pipe.unload()
    assert torch.equal(pixels(pipe), before)
    assert "loras" not in pipe(**PROMPT)[0].metadata


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_files_of_four_programs_hold_the_same_bits(tiny_folder, tmp_path, registry, method):
    model = load_model(tiny_folder)
    lora = random_lora(tiny_folder, method, (*TARGETS, "modulation", "head.linear"))
    write_lora(lora, tmp_path / "peft", model, registry)
    current = read_lora(tmp_path / "peft", model, registry)
    for file_format in ("kohya", "comfyui", "diffusers"):
        path = tmp_path / f"{file_format}.safetensors"
        write_lora(current, path, model, registry, file_format)
        current = read_lora(path, model, registry)
    write_lora(current, tmp_path / "again", model, registry)
    first, last = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "again"))
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in first)
    assert (current.base_model, current.base_hash) == (lora.base_model, lora.base_hash)
    configs = [(tmp_path / name / "adapter_config.json").read_text() for name in ("peft", "again")]
    assert configs[0] == configs[1]
    kohya = load_file(tmp_path / "kohya.safetensors")
    dim = model.backbone.config.hidden_size
    assert kohya["lora_unet_layers_0_attention_wk.lora_up.weight"].shape == (dim, 3)
    assert {key.split(".")[0] for key in load_file(tmp_path / "comfyui.safetensors")} == {"diffusion_model"}
    diffusers = load_file(tmp_path / "diffusers.safetensors")
    assert torch.equal(
        diffusers["transformer.layers.0.attn1.to_q.lora_B.weight"],
        lora.layers["backbone.blocks.0.attention.qkv"].b[:dim],
    )


def test_peft_itself_reads_the_folder(tiny_folder, tmp_path, registry):
    model = load_model(tiny_folder)
    write_lora(random_lora(tiny_folder), tmp_path / "lora", model, registry)
    pipe = Pipeline.from_pretrained(tiny_folder)
    pipe.load_lora(tmp_path / "lora")
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "lora").eval()
    with torch.inference_mode():
        assert torch.equal(predict(wrapped.base_model.model), predict(pipe.model))


def test_layers_of_a_fused_matrix_with_a_of_their_own_add_their_ranks(tiny_folder, tmp_path, registry):
    model = load_model(tiny_folder)
    dim = model.backbone.config.hidden_size
    torch.manual_seed(0)
    tensors, updates = {}, []
    for name, alpha in (("wq", 4.0), ("wv", 1.0)):
        a, b = torch.randn(2, dim), torch.randn(dim, 2)
        key = f"lora_unet_layers_1_attention_{name}"
        tensors |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b, f"{key}.alpha": torch.tensor(alpha)}
        updates.append(alpha / 2 * b @ a)
    save_file(tensors, tmp_path / "lora.safetensors")
    (layer, one), *rest = read_lora(tmp_path / "lora.safetensors", model, registry).layers.items()
    assert (layer, one.rank, rest) == ("backbone.blocks.1.attention.qkv", 4, [])
    expected = torch.cat([updates[0], torch.zeros(dim, dim), updates[1]])
    assert torch.allclose(one.alpha / one.rank * one.b @ one.a, expected, atol=1e-6)


def test_every_unmatched_key_is_named(tiny_folder, tmp_path, registry):
    model = load_model(tiny_folder)
    write_lora(random_lora(tiny_folder), tmp_path / "lora.safetensors", model, registry, "kohya")
    tensors = load_file(tmp_path / "lora.safetensors")
    wrong = ["lora_te_layers_0_mlp.lora_down.weight", "lora_unet_layers_9_attention_wq.alpha", "layers.0.what"]
    save_file(tensors | {key: torch.zeros(2, 2) for key in wrong}, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match="3 keys") as error:
        read_lora(tmp_path / "wrong.safetensors", model, registry)
    assert all(key in str(error.value) for key in wrong)
    with pytest.warns(UserWarning, match="3 keys"):
        lora = read_lora(tmp_path / "wrong.safetensors", model, registry, strict=False)
    assert are_equal(lora, read_lora(tmp_path / "lora.safetensors", model, registry))


def test_a_lora_of_another_base_is_refused(tiny_folder, tmp_path, registry):
    write_lora(random_lora(tiny_folder), tmp_path / "lora", load_model(tiny_folder), registry)
    other = load_model(tiny_folder)
    with torch.no_grad():
        other.backbone.blocks[0].attention.qkv.weight[0, 0] += 1
    with pytest.raises(CheckpointError, match=r"got a LoRA of tiny \(sha256 .* expected one of this model"):
        Pipeline(other, registry).load_lora(tmp_path / "lora")
    half = load_model(tiny_folder, dtype=torch.bfloat16)  # the same model in another dtype is the same base
    assert base_hash(half).sha256 == base_hash(load_model(tiny_folder)).sha256


def test_a_lora_of_another_width_is_refused(tiny_folder, tmp_path, registry):
    lora = random_lora(tiny_folder)
    wider = {name: LoraWeights(torch.zeros(3, one.a.shape[1] + 8), one.b, 2.0) for name, one in lora.layers.items()}
    write_lora(Lora(wider), tmp_path / "lora", load_model(tiny_folder), registry)
    with pytest.raises(CheckpointError, match=r"got A \(3, 72\)"):
        Pipeline.from_pretrained(tiny_folder).load_lora(tmp_path / "lora")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank": 0}, "rank: got 0, expected a value greater than or equal to 1"),
        ({"rank": 65}, "rank: got 65, expected at most 64, the smaller side of backbone.blocks.0.attention.qkv"),
        ({"targets": ["attention.qvk"]}, "got 'attention.qvk', .* did you mean 'attention.qkv'"),
        ({"targets": ["attention.qkv[w]"]}, r"got 'attention.qkv\[w\]', expected attention.qkv\[q\]"),
        ({"targets": ["attention.out[q]"]}, "which is one projection"),
        ({"targets": []}, "targets"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(train, adapter, message):
    with pytest.raises(ConfigError, match=message):
        train(**adapter)


def test_a_single_projection_of_a_fused_matrix_is_trained_alone(train, tiny_folder):
    _, folder = train(targets=["attention.qkv[v]", "feed_forward.up[gate]"], method="dora")
    dim = 64
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.backbone.blocks.0.attention.qkv"
    b, magnitude = tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_magnitude_vector"]
    assert not b[: 2 * dim].any() and b[2 * dim :].any()
    norms = load_model(tiny_folder).backbone.blocks[0].attention.qkv.weight.norm(dim=1)
    assert torch.allclose(magnitude[: 2 * dim], norms[: 2 * dim]) and not torch.equal(
        magnitude[2 * dim :], norms[2 * dim :]
    )
    up = tensors["base_model.model.backbone.blocks.1.feed_forward.up.lora_B.weight"]
    assert up[: len(up) // 2].any() and not up[len(up) // 2 :].any()


@pytest.mark.parametrize("base_dtype", ["bfloat16", "int8", "int4"])
def test_the_frozen_base_may_have_few_bits(train, base_dtype):
    if base_dtype != "bfloat16":
        pytest.importorskip({"int8": "torchao", "int4": "bitsandbytes"}[base_dtype])
    trainer, folder = train(base_dtype=base_dtype)
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    weight = trainer.model.backbone.blocks[0].attention.qkv.base_layer.weight
    full = 64 * 192 * 4
    stored = weight.untyped_storage().nbytes() if base_dtype != "int8" else weight.qdata.untyped_storage().nbytes()
    assert stored == full * {"bfloat16": 16, "int8": 8, "int4": 4}[base_dtype] // 32


def test_a_resumed_training_of_an_adapter_has_the_same_numbers(train, tmp_path):
    from lumina_core import TrainCallback

    class Stop(TrainCallback):
        def on_step_end(self, trainer, metrics):
            if metrics.step == 2:
                trainer.stop()

    _, whole = train("whole")
    train("parts", callbacks=[Stop()])
    _, resumed = train("parts", resume=True)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    checkpoint = tmp_path / "whole" / "checkpoints" / "step-00000004" / "model.safetensors"
    assert set(load_file(checkpoint)) == {name for name in _parameters(first)}
    assert (tmp_path / "whole" / "samples").is_dir()
    with pytest.raises(CheckpointError, match=r"got the training of an adapter, expected a model\. Open its base"):
        load_model(tmp_path / "whole")


def _parameters(tensors):
    for name in tensors:
        plain = name.removeprefix("base_model.model.")
        yield plain.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")


def test_another_base_than_that_of_the_resumed_training_is_refused(train, tmp_path, registry):
    train()
    other = make_model("image.tiny", tmp_path / "other", registry)
    tensors = load_file(other / "model.safetensors")
    tensors["head.linear.weight"] += 1
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected the base of the training that is resumed"):
        train(resume=True, init=[other])


def test_init_replaces_the_base_and_needs_one_of_the_same_task(train, registry, tmp_path):
    with pytest.raises(ConfigError, match="got 2 models, expected one"):
        train(init=["a", "b"])
    classes = make_model("image.tiny", tmp_path / "classes", registry)
    config = json.loads((classes / "config.json").read_text())
    config["recipe"]["task"] = {"type": "image.class_to_image", "image_size": 32}
    config["recipe"]["conditioners"][0]["field"] = "label"
    (classes / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"expected one for image\.text_to_image"):
        train(init=[classes])


def test_targets_are_named_in_the_order_of_the_model(tiny_folder):
    targets = find_targets(load_model(tiny_folder), AdapterConfig(rank=1, targets=("feed_forward.out", "qkv")))
    assert [one.name.split(".", 3)[3] for one in targets] == ["attention.qkv", "feed_forward.out"] * 2


def test_the_command_line_adds_loras_with_weights(ask, lumina, tiny_folder, tmp_path, registry):
    folder = tmp_path / "lora"
    write_lora(random_lora(tiny_folder), folder, load_model(tiny_folder), registry)
    options = ("red heart", "--steps", 1, "--json", "--out")
    plain, zero, full = (tmp_path / f"{name}.png" for name in ("plain", "zero", "full"))
    assert ask(*options, plain).status == 0
    assert ask(*options, zero, "--lora", f"{folder}:0").status == 0
    done = ask(*options, full, "--lora", f"{folder}:0.5", "--lora", folder)
    assert done.status == 0, done.err
    assert [lora["weight"] for lora in json.loads(done.out)["loras"]] == [0.5, 1.0]
    images = [Image.open(path).tobytes() for path in (plain, zero, full)]
    assert images[0] == images[1] != images[2]
    wrong = ask(*options, full, "--lora", f"{folder}:much")
    assert wrong.status == 2 and "--lora: got weight 'much', expected a number" in wrong.err
    assert "expected an existing file or folder" in ask(*options, full, "--lora", tmp_path / "nothing").err


def test_the_model_that_a_lora_names_is_the_default(lumina, tiny_folder, tmp_path, registry):
    lora = random_lora(tiny_folder)
    for name, base in (("named", str(tiny_folder)), ("missing", "models/missing")):
        write_lora(Lora(lora.layers, base, lora.base_hash), tmp_path / name, load_model(tiny_folder), registry)
    options = ("image", "red heart", "--steps", 1, "--out")
    assert lumina(*options, tmp_path / "1.png", "--lora", tmp_path / "named").status == 0
    missing = lumina(*options, tmp_path / "2.png", "--lora", tmp_path / "missing")
    assert "got 'models/missing', expected a model folder" in missing.err


def test_the_command_line_converts_a_lora(lumina, tiny_folder, tmp_path, registry):
    lora = Lora(random_lora(tiny_folder).layers, str(tiny_folder))
    write_lora(lora, tmp_path / "lora", load_model(tiny_folder), registry)
    file = tmp_path / "style.safetensors"
    done = lumina("convert", tmp_path / "lora", file, "--format", "kohya")
    assert done.status == 0 and f"a LoRA of 10 layers of {tiny_folder} -> kohya" in done.out, done
    back = lumina("convert", file, tmp_path / "back", "--json")
    assert json.loads(back.out) == {
        "to": "peft", "base": str(tiny_folder), "layers": 10, "written": str(tmp_path / "back")
    }  # fmt: skip
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("lora", "back"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    refusals = {
        ("--format", "kohia"): "expected a format of LoRA files; did you mean 'kohya'?",
        ("--format", "kohya"): "expected a file that ends in .safetensors",
        ("--dtype", "float16"): "--dtype: got it for the LoRA",
        ("--base", tmp_path / "none"): "expected a model folder or the name of an installed model",
    }
    for options, message in refusals.items():
        assert message in lumina("convert", file, tmp_path / "new", *options).err
        assert not (tmp_path / "new").exists()
    assert "--base: got" in lumina("convert", tiny_folder, tmp_path / "new", "--base", tiny_folder).err


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"offload": True}], ids=str)
def test_a_lora_works_in_other_dtypes_and_with_offload(tiny_folder, tmp_path, registry, method, options):
    write_lora(random_lora(tiny_folder, method), tmp_path / "lora", load_model(tiny_folder), registry)
    expected = Pipeline.from_pretrained(tiny_folder)
    expected.load_lora(tmp_path / "lora")
    pipe = Pipeline.from_pretrained(tiny_folder, **options)
    pipe.load_lora(tmp_path / "lora")
    target = pixels(expected)
    assert (pixels(pipe) - target).std() <= (0.0 if "offload" in options else 0.05 * target.std())
    pipe.fuse()
    assert (pixels(pipe) - target).std() <= 0.05 * target.std()


def test_a_lora_is_not_written_where_it_cannot_be(tiny_folder, tmp_path, registry):
    lora, model = random_lora(tiny_folder), load_model(tiny_folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_lora(lora, tmp_path / "file" / "lora.safetensors", model, registry, "kohya")
    with pytest.raises(ConfigError, match="expected a folder: peft's format has two files"):
        write_lora(lora, tmp_path / "file", model, registry)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(CheckpointError, match="expected safetensors"):
        read_lora(tmp_path / "cut.safetensors", model, registry)


def test_a_layer_without_one_of_its_matrices_is_named(tiny_folder, tmp_path, registry):
    model = load_model(tiny_folder)
    write_lora(random_lora(tiny_folder), tmp_path / "lora.safetensors", model, registry, "comfyui")
    tensors = load_file(tmp_path / "lora.safetensors")
    del tensors["diffusion_model.layers.1.feed_forward.w2.lora_A.weight"]
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w2: got no A"):
        read_lora(tmp_path / "lora.safetensors", model, registry)


@pytest.mark.parametrize(
    "config", [{"lora_alpha": "x"}, {"lora_alpha": float("inf")}, {"lora_alpha": 2, "alpha_pattern": 5}]
)
def test_an_alpha_that_is_no_number_is_one_clear_error(config):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: got alphas and ranks that are no numbers"):
        _alphas(config, {}, {"a part": "attention.qkv"})
