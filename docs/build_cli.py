"""Write docs/reference/command-line.md from the help texts: python docs/build_cli.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from lumina_core.cli.main import lumina

PAGE = Path(__file__).parent / "reference" / "command-line.md"
HEAD = """# Command line

The help text of every command of the core and of the packages for images and sound.
Written by `python docs/build_cli.py`.
"""
WIDTH = 100


def page() -> str:
    """Return the page: a section per command, in the order of `lumina --help`."""
    context = click.Context(lumina, info_name="lumina", terminal_width=WIDTH, max_content_width=WIDTH)
    sections = [("lumina", lumina, context), *commands(lumina, context)]
    blocks = (f"\n## {name}\n\n```text\n{_help(command, inner)}\n```\n" for name, command, inner in sections)
    return HEAD + "".join(blocks)


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command of a group with its full name, subcommands after their group."""
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        if command is None:
            continue
        inner = click.Context(command, info_name=word, parent=context, terminal_width=WIDTH, max_content_width=WIDTH)
        yield inner.command_path, command, inner
        if isinstance(command, click.Group):
            yield from commands(command, inner)


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
