"""What the toy brings."""

from __future__ import annotations

from lumina_core import hookimpl


@hookimpl
def lumina_register_parts(parts):
    parts.tokenizer("toy.pairs", "lumina_toy.parts:Pairs", "two numbers a token")
    parts.autoencoder("toy.same", "lumina_toy.parts:Same", "the numbers themselves")
    parts.task("toy.numbers", "lumina_toy.parts:Numbers", "Numbers from a word.", command="numbers")
    parts.task("toy.letters", "lumina_toy.parts:Numbers", "The same without a command.")


@hookimpl
def lumina_register_recipes(recipes):
    recipes.add("toy.small", "lumina_toy:small.yaml", "the smallest there is")
