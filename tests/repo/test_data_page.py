"""Every data set on the page about data can be read as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from making import registry_of

PAGE_OF = {"image": "guides/data.md", "audio": "guides/sound-data.md"}
DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / page).read_text(encoding="utf-8") for name, page in PAGE_OF.items()}
EXAMPLES = [
    (name, yaml.safe_load(part.partition("```")[0])["dataset"])
    for name, page in PAGES.items()
    for part in page.split("```yaml\n")[1:]
]


@pytest.mark.parametrize(("name", "options"), EXAMPLES, ids=lambda one: one if isinstance(one, str) else one["type"])
def test_every_example_on_the_page_is_a_data_set(name, options) -> None:
    component = registry_of(name).find("dataset", options["type"])
    assert component.Config.read(
        {key: value for key, value in options.items() if key != "type"}, f"docs/{PAGE_OF[name]}"
    )


@pytest.mark.parametrize("name", PAGE_OF)
def test_the_page_names_every_data_set(name) -> None:
    registry = registry_of(name)
    assert all(f"`{part}`" in PAGES[name] for part in registry.registrations("dataset"))
