"""Every data set on the page about data can be read as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from making import registry_of

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(part.partition("```")[0])["dataset"] for part in PAGE.split("```yaml\n")[1:]]


@pytest.mark.parametrize("options", EXAMPLES, ids=lambda options: options["use"])
def test_every_example_on_the_page_is_a_data_set(options) -> None:
    part = registry_of("image").find("dataset", options["use"])
    assert part.Config.read({key: value for key, value in options.items() if key != "use"}, "docs/data.md")


def test_the_page_names_every_data_set() -> None:
    registry = registry_of("image")
    assert all(f"`{name}`" in PAGE for name in registry.entries("dataset"))
