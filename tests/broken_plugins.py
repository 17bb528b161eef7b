"""Sources of a working plugin and of one broken plugin per kind of mistake, with a part of the recorded reason."""

from __future__ import annotations

GOOD = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_components(components):
    components.solver("{name}.step", "{name}_plugin:step", "a step")
def step(velocity, x, t, u):
    return x
"""


HOOK = "from lumina_core import hookimpl\n@hookimpl\ndef "
BROKEN = {
    "import error": ("raise RuntimeError('libsndfile is missing')", "RuntimeError: libsndfile is missing"),
    "syntax error": ("def (", "SyntaxError"),
    "missing dependency": ("import an_absent_module", "No module named 'an_absent_module'"),
    "ends the program": ("raise SystemExit(3)", "tried to end the program (SystemExit 3)"),
    "ends the program in its hook": (
        HOOK + "lumina_register_components(components):\n exit(0)",
        "tried to end the program",
    ),
    "throws past Exception": ("class Panic(BaseException): pass\nraise Panic('inner')", "Panic: inner"),
    "wrong argument": (
        HOOK + "lumina_register_components(component): pass",
        "has no argument 'component'; it has: components",
    ),
    "misspelt hook": (
        HOOK + "lumina_register_component(components): pass",
        "did you mean 'lumina_register_components'?",
    ),
    "misspelt, unmarked hook": (
        "def lumina_register_recipe(recipes): pass",
        "did you mean 'lumina_register_recipes'?",
    ),
    "misspelt, unmarked hook of no known beginning": (
        "def lumina_regster_components(components): pass",
        "did you mean 'lumina_register_components'?",
    ),
    "asynchronous hook": (
        "from lumina_core import hookimpl\n@hookimpl\nasync def lumina_register_components(components): pass",
        "must be a plain function",
    ),
    "generator as hook": (HOOK + "lumina_register_components(components):\n yield", "must be a plain function"),
    "argument left out": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', 'a:b')",
        "components.solver() missing 1 required positional argument: 'summary'",
    ),
    "unmarked hook": ("def lumina_register_components(components): pass", "is not marked with @hookimpl"),
    "misspelt component type": (
        HOOK + "lumina_register_components(components):\n components.solvr('bad.a', 'a:b', 'c')",
        "component type: got 'solvr', expected a type of component; did you mean 'solver'?",
    ),
    "error half-way": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', 'a:b', 'c')\n 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "name of another plugin": (
        HOOK + "lumina_register_components(components):\n components.solver('core.euler', 'a:b', 'c')",
        "'bad.<name>'",
    ),
    "duplicate name": (
        HOOK + "lumina_register_components(components):\n for _ in 'ab': components.solver('bad.a', 'a:b', 'c')",
        "registered twice",
    ),
    "malformed target": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', 'no colon', 'c')",
        "'no colon' is not of the form module:name",
    ),
    "no string": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', print, 'c')",
        "must be strings",
    ),
    "reserved command": (
        HOOK + "lumina_register_commands(commands):\n commands.add('train', 'a:b', 'c')",
        "the command 'train' belongs to lumina itself",
    ),
    "a task with a reserved command": (
        HOOK + "lumina_register_components(components):\n components.task('bad.t', 'a:b', 'c', command='plugins')",
        "the command 'plugins' belongs to lumina itself",
    ),
    "an existing component type": (
        HOOK + "lumina_register_component_types(component_types):\n component_types.add('solver', 'a:b', 'a:b', 'c')",
        "component type: got 'solver', which exists already",
    ),
}
