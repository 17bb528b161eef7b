"""The template for plugins makes, for every type of component that it offers, one whose tests pass as it comes."""

from __future__ import annotations

import re

import pytest
import yaml
from examples.stranger import ROOT, lines_of_python, run_module, unpacked

from lumina_core.plugins.registry import COMPONENT_TYPES

TEMPLATE = ROOT / "templates" / "plugin"
OFFERED = yaml.safe_load((TEMPLATE / "copier.yml").read_text(encoding="utf-8"))["component_type"]["choices"]


def rendered(folder, **answers):
    copier = pytest.importorskip("copier")
    plugin = folder / "plugin"
    # of the files as they lie here, not of the last tag
    copier.run_copy(str(TEMPLATE), plugin, data={"author": "A. Body", **answers}, quiet=True, vcs_ref="HEAD")
    return plugin


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One plugin a component type, all of them found by one process."""
    everything, where = {}, tmp_path_factory.mktemp("made")
    environment = None
    for component_type in OFFERED:
        plugin = rendered(where / component_type, name=f"my{component_type}", component_type=component_type)
        one = unpacked(plugin, where / "site")
        paths = (environment or one)["PYTHONPATH"]
        environment = {**one, "PYTHONPATH": f"{plugin / 'src'}:{paths}" if everything else paths}
        everything[component_type] = plugin
    return everything, environment


def test_the_tests_of_the_template_pass_for_every_component_type(made):
    plugins, environment = made
    tests = [plugin / "tests" for plugin in plugins.values()]
    output = run_module(environment, "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests)
    assert f"{len(OFFERED)} passed" in output


def test_the_recipe_of_every_template_trains(made, tmp_path):
    plugins, environment = made
    motion = unpacked(ROOT / "examples" / "lumina-motion", tmp_path / "site")["PYTHONPATH"]
    program = "\n".join(
        [
            "import sys",
            "from lumina_core.plugins.loader import load_plugins",
            "from lumina_core.recipe import Recipe",
            "from lumina_core.training.dry_run import dry_run",
            "for path in sys.argv[1:]:",
            "    recipe = Recipe.load(path)",
            "    report = dry_run(recipe, load_plugins())",
            "    print(path, recipe.component_names())",
        ]
    )
    (tmp_path / "check_all.py").write_text(program, encoding="utf-8")
    environment = {**environment, "PYTHONPATH": f"{tmp_path}:{motion}:{environment['PYTHONPATH']}"}
    shown = run_module(environment, "check_all", *[plugin / "recipe.yaml" for plugin in plugins.values()])
    for component_type, line in zip(plugins, shown.splitlines(), strict=True):
        assert f"my{component_type}." in line


def test_every_generated_plugin_loads(made):
    plugins, environment = made
    shown = run_module({**environment, "LUMINA_STRICT": "1"}, "lumina_core", "plugins")
    for component_type in plugins:
        assert re.search(
            rf"^my{component_type}  \(lumina-my{component_type} 1\.0\)\n  {component_type} +my{component_type}\.\w+ ",
            shown,
            re.MULTILINE,
        )


def test_a_solver_is_less_than_fifteen_lines_of_python(made):
    assert 5 < lines_of_python(made[0]["solver"] / "src") < 15


def test_every_common_component_type_is_offered():
    assert set(OFFERED) == set(COMPONENT_TYPES) - {
        "metric",
        "feature_extractor",
        "checkpoint_format",
        "context_drop",
        "block_cache",
        "coupling",
        "position_encoding",
    }


def test_a_generated_plugin_is_linted_and_has_a_readme_and_a_licence(made):
    for plugin in made[0].values():
        assert "A. Body" in (plugin / "LICENSE").read_text(encoding="utf-8")
        assert "lumina plugins" in (plugin / "README.md").read_text(encoding="utf-8")
        lines = [line for file in plugin.rglob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
        assert max(map(len, lines)) <= 120 and not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("name", ["Motion", "core", "my-plugin", ""])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"plain lower-case word|core is taken"):
        rendered(tmp_path, name=name, component_type="solver")
