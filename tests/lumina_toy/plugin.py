"""What the toy brings."""

from __future__ import annotations

from lumina_core import hookimpl


@hookimpl
def lumina_register_components(components):
    components.tokenizer("toy.pairs", "lumina_toy.components:Pairs", "two numbers a token")
    components.autoencoder("toy.same", "lumina_toy.components:Same", "the numbers themselves")
    components.task("toy.numbers", "lumina_toy.components:Numbers", "Numbers from a word.", command="numbers")
    components.task("toy.letters", "lumina_toy.components:Numbers", "The same without a command.")


@hookimpl
def lumina_register_recipes(recipes):
    recipes.add("toy.small", "lumina_toy:small.yaml", "the smallest there is")
