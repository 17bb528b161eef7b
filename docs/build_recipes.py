"""Writes the tables of docs/reference/recipes.md from the settings themselves: python docs/build_recipes.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PAGE = Path(__file__).parent / "reference" / "recipes.md"
OURS = ("core", "image", "audio", "3d", "recog")
COMPONENT_TYPES = (
    "task",
    "dataset",
    "autoencoder",
    "tokenizer",
    "conditioner",
    "backbone",
    "head",
    "objective",
    "path",
    "time_sampler",
    "schedule",
    "rope_scaling",
    "context_drop",
    "block_cache",
    "vocoder",
)
SIGNS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"), ("multiple_of", "a multiple of"))


def main() -> None:
    """Rewrite what stands between the marks of the page; the words around them are left alone."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.name}")


def filled(page: str) -> str:
    """The page with fresh tables between `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    for name, content in blocks().items():
        mark = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        page, count = mark.subn(lambda found, text=content: f"{found[1]}{text}{found[2]}", page)
        if count != 1:
            raise ValueError(f"{PAGE.name} needs exactly one block called '{name}', it has {count}")
    return page


def blocks() -> dict[str, str]:
    """Every generated block by its name."""
    from lumina_core.recipe import ConditionerSpec, Recipe, SamplingConfig, TrainingConfig
    from lumina_image.datasets.image_dataset import BucketConfig

    models = {"recipe": Recipe, "conditioner": ConditionerSpec, "sampling": SamplingConfig, "training": TrainingConfig}
    models["buckets"] = BucketConfig
    return {**{name: table(model) for name, model in models.items()}, "components": "".join(components())}


def components() -> Iterator[str]:
    """A section a component type, a table a component; only those of the packages in this repository."""
    from lumina_core.plugins.loader import find_candidates, load_from

    registry = load_from(found for found in find_candidates() if found.source.plugin in OURS)
    for component_type in COMPONENT_TYPES:
        yield f"\n### {component_type}\n"
        for name, registration in registry.registrations(component_type).items():
            settings = getattr(registry.find(component_type, name), "Config", None)
            yield f"\n**`{name}`**: {registration.summary}\n"
            if settings is not None and settings.model_fields:
                yield f"\n{table(settings)}"
    for component_type in ("solver", "guidance"):
        found = {
            name: getattr(registry.find(component_type, name), "Config", None)
            for name in registry.registrations(component_type)
        }
        yield f"\n### {component_type}\n\nPlain functions without options, but for those with a table.\n\n"
        yield "".join(
            f"- `{name}`: {registration.summary}\n"
            for name, registration in registry.registrations(component_type).items()
        )
        yield from (f"\n**`{name}`**\n\n{table(s)}" for name, s in found.items() if s is not None and s.model_fields)
    yield "\n"


def table(model: type[BaseModel]) -> str:
    """Key, default and meaning of each field, in their order."""
    rows = [f"| `{name}` | {_default(field)} | {_meaning(field)} |" for name, field in model.model_fields.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if isinstance(value, BaseModel):
        said = value.model_dump(exclude_defaults=True)
        return f"`{said['type']}`" if "type" in said else "see below"
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def _meaning(field: FieldInfo) -> str:
    limits = [f"{word} {getattr(m, sign):g}" for sign, word in SIGNS for m in field.metadata if hasattr(m, sign)]
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal]
    choices = [", ".join(f"`{choice}`" for choice in get_args(kind)) for kind in kinds]
    said = [field.description or "", *([f"one of {choices[0]}"] if choices else []), _range(limits)]
    return "; ".join(part for part in said if part).replace("|", "\\|")


def _range(limits: list[str]) -> str:
    # a seed's upper end says nothing to anybody
    return ", ".join(limit for limit in limits if not re.search(r"e\+1\d", limit))


if __name__ == "__main__":
    main()
