"""What nobody writes by hand on the site: the reference from the tree, the README's table, links from words to symbols.

mkdocs calls the functions `on_...` (its hooks) while `nox -s docs` builds; everything above them is plain Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
REFERENCE = "reference"
SYMBOL_PAGES = ("concepts/paper.md", "concepts/index.md")
"""Pages on which names between backticks lead to the reference, where there is such a name."""

_INCLUDE = re.compile(r"^<!-- from (?P<file>[\w./-]+)(?:: (?P<heading>.+?))? -->$", re.MULTILINE)
_CODE = re.compile(r"(?<!`)`(?P<name>[A-Za-z_][\w.]*)`(?!`)")
_SHOWN_PATH = re.compile(r"\[(?P<path>docs/[\w/-]+\.md)\](?=\()")
_LINK = re.compile(r"\]\((?P<to>[^)\s]+)\)")


# the tree


@cache
def modules() -> dict[str, Path]:
    """Every public module of the packages by its dotted name, with its file."""
    found = {}
    for source in sorted(ROOT.glob("packages/*/src")):
        for file in sorted(source.rglob("*.py")):
            parts = file.relative_to(source).with_suffix("").parts
            if not any(part.startswith("_") for part in parts if part != "__init__"):
                found[".".join(part for part in parts if part != "__init__")] = file
    return found


def page_of(module: str) -> str:
    """Where a module's page stands among the pages; a package's is the first of its folder."""
    inner = "/index" if inside(module) else "_module" if module.endswith(".index") else ""
    return f"{REFERENCE}/{module.replace('.', '/')}{inner}.md"


def module_page(module: str) -> str:
    """The page of a module: its name, what it says of itself, what it defines, and the modules inside it."""
    within = inside(module)
    return f"::: {module}\n" + ("\n## Modules\n\n" + _listed(within) if within else "")


def front_page() -> str:
    """List the public names, the reference pages and every module with its first line."""
    names = "".join(f"| `{name}` | [`{target}`][{target}] |\n" for name, target in public_names().items())
    packages = (f"## {package}\n\n{_listed(names)}\n" for package, names in _packages().items())
    return (
        "# Reference\n\n[Recipes](recipes.md), [hooks](hooks.md), [command line](command-line.md).\n\n"
        "## Public names\n\n`from lumina_core import NAME`\n\n| name | defined in |\n|---|---|\n"
        f"{names}\n{''.join(packages)}"
    )


def public_names() -> dict[str, str]:
    """Return the dotted address of every name that `lumina_core` exports, read from its source."""
    tree = ast.parse(modules()["lumina_core"].read_text(encoding="utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    table = next(
        node.value for node in assigned if "_EXPORTS" in [t.id for t in node.targets if isinstance(t, ast.Name)]
    )
    return {name: target.replace(":", ".") for name, target in ast.literal_eval(table).items()}


def navigation() -> list[Any]:
    """Return the nested list of the reference, as mkdocs expects it: a section per folder."""
    return [f"{REFERENCE}/index.md", *(_branch(package) for package in _packages())]


def inside(module: str) -> tuple[str, ...]:
    """Modules directly inside a package; none for a plain module."""
    depth = module.count(".") + 1
    return tuple(name for name in modules() if name.startswith(f"{module}.") and name.count(".") == depth)


def _branch(module: str) -> dict[str, Any]:
    within, title = inside(module), module.rpartition(".")[2]
    return {title: [page_of(module), *map(_branch, within)] if within else page_of(module)}


def _listed(names: Iterable[str]) -> str:
    rows = (f"| [`{name}`][{name}] | {_purpose(modules()[name])} |\n" for name in names)
    return "| module | purpose |\n|---|---|\n" + "".join(rows)


def _packages() -> dict[str, list[str]]:
    tops = [name for name in modules() if "." not in name]
    return {top: [name for name in modules() if name == top or name.startswith(f"{top}.")] for top in tops}


def _purpose(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0].replace("|", "\\|")


@cache
def symbols() -> set[str]:
    """The dotted address of every module, class, function, method and constant that is public."""
    found: set[str] = set()
    for module, file in modules().items():
        found |= {module, *_defined(ast.parse(file.read_text(encoding="utf-8")), module)}
    return found


def _defined(tree: ast.AST, where: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        for name in _names(node):
            if not name.startswith("_"):
                yield f"{where}.{name}"
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _defined(node, f"{where}.{node.name}")


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


# words on a page


def address(name: str, known: set[str], near: str = "") -> str | None:
    """The full address of a name as prose writes it: whole, without `lumina_core`, or beside the one named before."""
    beside = near
    tried = [name, f"lumina_core.{name}"]
    while beside:
        tried.append(f"{beside}.{name}")
        beside = beside.rpartition(".")[0]
    return next((one for one in tried if one in known and "." in one), None)


def linked(markdown: str, known: set[str]) -> str:
    """The page with names between backticks made links to the reference; blocks of code are left alone."""
    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if piece.startswith("```") else _linked_lines(piece, known) for piece in pieces)


def _linked_lines(text: str, known: set[str]) -> str:
    lines = []
    for line in text.split("\n"):
        near = ""

        def link(found: re.Match[str]) -> str:
            nonlocal near
            whole = address(found["name"], known, near)
            if whole is None:
                return found[0]
            near = whole
            return f"[{found[0]}][{whole}]"

        lines.append(line if line.startswith("#") else _CODE.sub(link, line))
    return "\n".join(lines)


def included(markdown: str) -> str:
    """The page with `<!-- from FILE -->` or `<!-- from FILE: HEADING -->` replaced by that file or section of it."""
    return _INCLUDE.sub(lambda found: section(found["file"], found["heading"]), markdown)


def section(file: str, heading: str | None = None) -> str:
    """A file from the root of the project, or what stands under a heading of it, with links as the site needs them.

    Raises:
        ValueError: there is no such heading.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    if heading is not None:
        mark = f"\n## {heading}\n"
        if mark not in text:
            raise ValueError(f"{file} has no section '{heading}'; a page of docs/ shows it")
        text = text.partition(mark)[2].partition("\n## ")[0].strip()
    named = _SHOWN_PATH.sub(lambda found: f"[{_title(ROOT / found['path'])}]", text)
    return _LINK.sub(lambda found: f"]({_from_the_root(found['to'])})", named)


def _title(page: Path) -> str:
    heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8") if page.is_file() else "", flags=re.MULTILINE)
    return heading[1] if heading else page.name


def _from_the_root(link: str) -> str:
    roots = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
    return roots.get(link, link.removeprefix("docs/"))


# what mkdocs calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference where the navigation has a place for it."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] = [*navigation()[:1], *entry["Reference"], *navigation()[1:]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each module, and the list of them."""
    from mkdocs.structure.files import File

    pages = {page_of(name): module_page(name) for name in modules()}
    for path, content in {f"{REFERENCE}/index.md": front_page(), **pages}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what stands elsewhere, and lead names of symbols to the reference."""
    filled = included(markdown)
    return linked(filled, symbols()) if page.file.src_uri in SYMBOL_PAGES else filled
