"""Writes the tables of docs/recipes.md from the settings themselves: python docs/build_recipes.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PAGE = Path(__file__).with_name("recipes.md")
OURS = ("core", "image", "audio")
KINDS = (
    "task", "dataset", "autoencoder", "tokenizer", "conditioner", "backbone", "head", "objective", "path", "times",
    "extrapolation", "context_drop", "step_cache", "vocoder",
)  # fmt: skip
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
    from lumina_core.recipe import NamedUse, Recipe, Sampling, Training
    from lumina_image.datasets.picture_set import Buckets

    models = {"recipe": Recipe, "conditioner": NamedUse, "sampling": Sampling, "training": Training}
    models["buckets"] = Buckets
    return {**{name: table(model) for name, model in models.items()}, "parts": "".join(parts())}


def parts() -> Iterator[str]:
    """A section a kind, a table a part; only parts of the packages in this repository."""
    from lumina_core.plugins.loader import candidates, load_from

    registry = load_from(found for found in candidates() if found.source.plugin in OURS)
    for kind in KINDS:
        yield f"\n### {kind}\n"
        for name, entry in registry.entries(kind).items():
            settings = getattr(registry.find(kind, name), "Config", None)
            yield f"\n**`{name}`**: {entry.summary}\n"
            if settings is not None and settings.model_fields:
                yield f"\n{table(settings)}"
    for kind in ("solver", "guidance"):
        found = {name: getattr(registry.find(kind, name), "Config", None) for name in registry.entries(kind)}
        yield f"\n### {kind}\n\nPlain functions without options, but for those with a table.\n\n"
        yield "".join(f"- `{name}`: {entry.summary}\n" for name, entry in registry.entries(kind).items())
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
        return f"`{said['use']}`" if "use" in said else "see below"
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
