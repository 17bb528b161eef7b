"""Base classes of components: optional methods have defaults, and a component of another class is refused."""

from __future__ import annotations

import pytest
import torch
from making import registry_of

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import PluginError
from lumina_core.model import build_component
from lumina_core.protocols import Autoencoder, Conditioner, SupportsFit, SupportsLoss, Tokenizer
from lumina_core.types import Condition


class Constant(Conditioner):
    class Config(Settings):
        pass

    def __init__(self, config=None):
        pass

    def encode(self, values):
        return Condition(pooled=torch.ones(len(values), 1))

    def null_condition(self, batch):
        return Condition(pooled=torch.zeros(batch, 1))


class Identity(Autoencoder):
    channels, downsample_factor = 1, (1,)

    def encode(self, data):
        return data

    def decode(self, latent):
        return latent


def test_optional_methods_of_a_conditioner_have_defaults_that_change_nothing():
    conditioner = Constant()
    assert conditioner.truncated_text("a red heart") == ""
    assert conditioner.predict_targets(Condition()) is None
    assert conditioner.map_children(lambda child: Constant()) is conditioner
    assert conditioner.fingerprint() is None and conditioner.pin_hashes() == {}
    assert conditioner.no_muon() == set() == conditioner.no_weight_decay()
    assert not conditioner.cacheable and not isinstance(conditioner, SupportsFit)
    conditioner.check_available()


def test_optional_methods_of_an_autoencoder_have_defaults_that_change_nothing():
    autoencoder = Identity()
    assert autoencoder.fixed_task_options == {} == autoencoder.pin_hashes()
    assert not isinstance(autoencoder, SupportsLoss)
    autoencoder.check_available()


def test_a_required_method_cannot_be_left_out():
    class Half(Tokenizer):
        def patchify(self, latent): ...

    with pytest.raises(TypeError, match=r"empty.*unpatchify"):
        Half()


def test_a_component_of_another_class_is_refused_with_the_base_class_to_derive_from():
    class Plain:
        class Config(Settings):
            pass

        def __init__(self, config):
            pass

    registry = registry_of()
    registry.add_component("conditioner", "mine.plain", Plain)
    registry.add_component("conditioner", "mine.constant", Constant)
    with pytest.raises(PluginError, match=r"mine\.plain.*Plain, expected a subclass of lumina_core\.protocols\.Cond"):
        build_component(registry, "conditioner", ComponentSpec(type="mine.plain"))
    assert isinstance(build_component(registry, "conditioner", ComponentSpec(type="mine.constant")), Constant)
