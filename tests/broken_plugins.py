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
    # ends or replaces the process
    "ends the process": ("import os\nos._exit(0)", "tried to end the program (os._exit(0))"),
    "ends the process in its hook": (
        "import os\n" + HOOK + "lumina_register_components(components):\n os._exit(3)",
        "tried to end the program (os._exit(3))",
    ),
    "aborts": ("import os\nos.abort()", "tried to end the program (os.abort())"),
    "becomes another program": ("import os\nos.execv('/bin/true', ['true'])", "tried to end the program (os.execv("),
    "raises KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises KeyboardInterrupt in its hook": (
        HOOK + "lumina_register_models(models):\n raise KeyboardInterrupt",
        "KeyboardInterrupt",
    ),
    "raises GeneratorExit": ("raise GeneratorExit('out')", "GeneratorExit: out"),
    "raises StopIteration": ("raise StopIteration('end')", "StopIteration: end"),
    "recurses without end": ("def f(): f()\nf()", "RecursionError"),
    "runs out of memory": ("raise MemoryError('no room')", "MemoryError: no room"),
    "asks for too much memory": ("bytearray(1 << 60)", "MemoryError"),
    # errors that are hard to report
    "an error without a message": ("raise ValueError", "ValueError: no message"),
    "an error whose text fails": (
        "class Odd(Exception):\n def __str__(self): raise RuntimeError\nraise Odd",
        "Odd: no message: its __str__ raised RuntimeError",
    ),
    "an error of a megabyte": ("raise ValueError('x' * 1000000)", "ValueError: xxxx"),
    "an error of many lines": ("raise ValueError('one\\n\\ntwo')", "ValueError: one two"),
    "a name that is not in the core": (
        "from lumina_core import no_such_name",
        "cannot import name 'no_such_name'",
    ),
    # registrations of a wrong form
    "a summary that is no string": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', 'a:b', None)",
        "must be strings",
    ),
    "a name with a space": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a b', 'a:b', 'c')",
        "'bad.<name>'",
    ),
    "a name with two dots": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a.b', 'a:b', 'c')",
        "'bad.<name>'",
    ),
    "a name without a word": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.', 'a:b', 'c')",
        "'bad.<name>'",
    ),
    "a command in capitals": (
        HOOK + "lumina_register_commands(commands):\n commands.add('Sing', 'a:b', 'c')",
        "expected a lower-case word",
    ),
    "a command that is an option": (
        HOOK + "lumina_register_commands(commands):\n commands.add('--help', 'a:b', 'c')",
        "expected a lower-case word",
    ),
    "a command of a solver": (
        HOOK + "lumina_register_components(components):\n components.solver('bad.a', 'a:b', 'c', command='sing')",
        "only a task has a command",
    ),
    "defaults that are no mapping": (
        HOOK + "lumina_register_components(components):\n components.metric('bad.a', 'a:b', 'c', defaults=5)",
        "got defaults 5, expected a mapping",
    ),
    "a recipe outside of its package": (
        HOOK + "lumina_register_recipes(recipes):\n recipes.add('bad.r', 'bad:../../secret.yaml', 'c')",
        "is not of the form module:name",
    ),
    "a model at the root": (
        HOOK + "lumina_register_models(models):\n models.add('bad.m', 'bad:/etc', 'c', task='bad.t')",
        "is not of the form module:name",
    ),
    "a model without a task": (
        HOOK + "lumina_register_models(models):\n models.add('bad.m', 'bad:m', 'c')",
        "missing 1 required keyword-only argument: 'task'",
    ),
    "a component type in capitals": (
        HOOK + "lumina_register_component_types(component_types):\n component_types.add('Voice', 'a:b', 'a:b', 'c')",
        "expected a lower-case word",
    ),
    "a check that cannot be named": (
        HOOK + "lumina_register_component_types(component_types):\n component_types.add('voice', 'a:b', 'check', 'c')",
        "check 'check' is not of the form module:name",
    ),
    "a hook with one more argument": (
        HOOK + "lumina_register_components(components, more): pass",
        "has no argument 'more'; it has: components",
    ),
}

HARMFUL = {
    # a working plugin that changes a setting of the process, and an expression of the setting
    "changes the folder": ("import os\nos.chdir('/')\n", "os.getcwd()"),
    "changes the default dtype": (
        "import torch\ntorch.set_default_dtype(torch.float64)\n",
        "torch.get_default_dtype()",
    ),
    "changes the default device": ("import torch\ntorch.set_default_device('meta')\n", "torch.zeros(1).device"),
    "turns gradients off": ("import torch\ntorch.set_grad_enabled(False)\n", "torch.is_grad_enabled()"),
    "changes the threads": ("import torch\ntorch.set_num_threads(7)\n", "torch.get_num_threads()"),
    "changes the precision": (
        "import torch\ntorch.set_float32_matmul_precision('medium')\n",
        "torch.get_float32_matmul_precision()",
    ),
    "forbids kernels": (
        "import torch\ntorch.use_deterministic_algorithms(True)\n",
        "torch.are_deterministic_algorithms_enabled()",
    ),
    "ignores Ctrl-C": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n",
        "signal.getsignal(signal.SIGINT)",
    ),
    "ignores the end": (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n",
        "signal.getsignal(signal.SIGTERM)",
    ),
    "replaces the output": ("import io, sys\nsys.stdout = io.StringIO()\n", "sys.stdout"),
    "hides errors": ("import sys\nsys.excepthook = lambda *_: None\n", "sys.excepthook"),
    "lowers the recursion limit": ("import sys\nsys.setrecursionlimit(200)\n", "sys.getrecursionlimit()"),
    "makes files private": ("import os\nos.umask(0o777)\n", "[os.umask(0o22), os.umask(0o22)][1:]"),
    "turns warnings into errors": ("import warnings\nwarnings.simplefilter('error')\n", "list(warnings.filters)"),
}

_LATE = """
from lumina_core import hookimpl
{before}
@hookimpl
def lumina_register_components(components):
    components.solver("bad.step", "{target}", "a step")
{after}
"""


def _late(after: str = "", target: str = "bad_plugin:step", before: str = "") -> str:
    return _LATE.format(after=after, target=target, before=before)


LATE = {
    # loaded without an error, and broken when the solver bad.step is used
    "no such module": _late(target="bad_absent:step"),
    "no such attribute": _late(target="bad_plugin:absent"),
    "its module raises": _late(target="bad_inner:step"),
    "its module ends the process": _late(target="bad_exits:step"),
    "its module raises KeyboardInterrupt": _late(target="bad_interrupts:step"),
    "a number instead of a function": _late("step = 5"),
    "a class without a Config": _late("class step: pass"),
    "a class with a Config of another kind": _late("class step:\n Config = dict"),
    "its constructor raises": _late(
        "from lumina_core.config import Config\n"
        "class step:\n class Config(Config): pass\n def __init__(self, config): raise KeyError('gone')"
    ),
    "its constructor ends the process": _late(
        "import os\nfrom lumina_core.config import Config\n"
        "class step:\n class Config(Config): pass\n def __init__(self, config): os._exit(0)"
    ),
    "a step raises": _late("def step(velocity, x, t, u): raise ZeroDivisionError('t')"),
    "a step ends the program": _late("def step(velocity, x, t, u): raise SystemExit(0)"),
    "a step raises KeyboardInterrupt": _late("def step(velocity, x, t, u): raise KeyboardInterrupt"),
    "a step returns nothing": _late("def step(velocity, x, t, u): return None"),
    "a step returns another shape": _late("def step(velocity, x, t, u): return x[:, :1]"),
    "a step takes too few arguments": _late("def step(velocity, x): return x"),
}
LATE_MODULES = {
    "bad_inner": "raise OSError('libsndfile is missing')",
    "bad_exits": "import os\nos._exit(0)",
    "bad_interrupts": "raise KeyboardInterrupt",
}

FATAL = {
    # kills the process: the next start names it
    "crashes": "import ctypes\nctypes.string_at(0)",
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "crashes in its hook": HOOK + "lumina_register_components(components):\n import ctypes\n ctypes.string_at(0)",
}
LINGERING = {
    # works, and would keep the process from ending, or change its status
    "a thread without an end": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n",
    "ends the process at exit": "import atexit, os\natexit.register(os._exit, 0)\n",
    "raises at exit": "import atexit\natexit.register(int, 'x')\n",
    "prints at exit": "import atexit, os\natexit.register(print, 'late')\natexit.register(os.write, 1, b'raw')\n",
}
HANGING = "import time\ntime.sleep(1000)"
