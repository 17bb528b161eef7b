"""The command `lumina`: commands imported on use, errors in one line."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from lumina_core import __version__
from lumina_core.errors import ConfigError, LuminaError, PluginError, ReportedError, printable, suggest
from lumina_core.plugins.guard import ProcessExitError, error_text, exits_refused
from lumina_core.plugins.loader import BUILT_IN_COMMANDS, load_plugins

if TYPE_CHECKING:
    from lumina_core.protocols import Dataset
    from lumina_core.recipe import Recipe
    from lumina_core.training.distributed import ProcessInfo

THREAD_SECONDS = 3.0
"""Time that a command waits at its end for threads of plugins."""
MAX_LINE_CHARS = 1200
"""Characters of an error on the terminal; a longer message loses its middle."""
EXIT_SECONDS = 10.0
"""Time that functions at exit may take."""
SUMMARIES = {
    "train": "Train a recipe.",
    "check": "Check a recipe with one step, without training.",
    "evaluate": "Evaluate a model on examples of a data set.",
    "convert": "Convert a model folder to another checkpoint format.",
    "plot": "Plot the metrics of a training.",
    "schedule": "Print a schedule of times, or fit one to a model.",
    "models": "List models and recipes, or describe a model folder.",
    "recipe": "Print an installed recipe, also for a folder of your own.",
    "plugins": "List plugins and components, and why a plugin was not loaded.",
}
MODULES = {
    "train": "train", "check": "train", "evaluate": "evaluate", "convert": "convert", "plot": "plot",
    "schedule": "schedule", "models": "models", "recipe": "recipe", "plugins": "plugins",
}  # fmt: skip


class LuminaGroup(click.Group):
    """Group of all commands: lists them from the registry, and imports a command's module when the command runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help."""
        if not args:  # click 8.2 and later raise an error of the whole help text
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands: those of plugins, then the built-in ones."""
        return [*load_plugins().commands(), *BUILT_IN_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None for an unknown name."""
        if cmd_name in MODULES:
            return _load_command(f"lumina_core.cli.{MODULES[cmd_name]}", cmd_name)
        entry = load_plugins().command(cmd_name)
        if entry is None:
            return None
        if entry.component_type == "task":
            from lumina_core.cli.generate import make_task_command

            return make_task_command(cmd_name, entry.name, entry.summary)
        command = load_plugins().find("command", cmd_name)
        if not isinstance(command, click.Command):
            raise PluginError(
                f"the command '{cmd_name}' of the plugin '{entry.plugin}': got {type(command).__name__}, expected a "
                "click command."
            )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the arguments; an error for an unknown name offers the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in MODULES and not load_plugins().command(args[0]):
            names = self.list_commands(ctx)
            reason = load_plugins().missing_reason(args[0])
            hint = f": {reason}" if reason else f"{suggest(args[0], names) or '.'} See: lumina --help"
            raise click.UsageError(f"command: got '{args[0]}', expected a command of lumina{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries, without importing the commands."""
        rows = [(name, _one_line(entry.summary)) for name, entry in load_plugins().commands().items()]
        rows += [(name, SUMMARIES[name]) for name in BUILT_IN_COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write an example, and the plugins that could not be loaded."""
        super().format_epilog(ctx, formatter)
        failures = load_plugins().failures
        if failures:
            formatter.write_text(printable(f"Not loaded: {', '.join(failures)}. See: lumina plugins"))


def load_recipe_dataset(name: str, overrides: tuple[str, ...]) -> tuple[Recipe, Dataset]:
    """Load a recipe and build its data set. Commands of plugins find this function as `ctx.obj`.

    Raises:
        LuminaError: the recipe does not exist, has no data set, or its data set cannot be read.
    """
    from lumina_core.recipe import Recipe, check_data_dirs

    recipe = Recipe.load(name, overrides)
    check_data_dirs(recipe)  # before torch is imported, which takes seconds
    from lumina_core.model import build_dataset

    return recipe, build_dataset(recipe, load_plugins())


@contextmanager
def torchrun_processes(device: str | None) -> Iterator[ProcessInfo | None]:
    """Join the processes of torchrun for the length of a block; of an error, one of them reports.

    Yields:
        This process; None for a single one, for which torch is not imported here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    from lumina_core.training.distributed import joined_processes

    with joined_processes(device) as process:
        yield process


@click.group(
    cls=LuminaGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "obj": load_recipe_dataset},
    epilog='Example:  lumina image "a red heart" --out heart.png',
)
@click.version_option(__version__, prog_name="lumina")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; works after a command too.")
def lumina(debug: bool) -> None:
    """Flow-matching diffusion transformers: generation of images and audio, training and evaluation."""


def main() -> None:
    """Run the command line and exit; an error is printed in one line, with a non-zero status."""
    _accept_any_text()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    status = run(arguments, debug)
    _close_stdout()
    _leave_threads(status)
    _run_exit_functions(status)
    sys.exit(status)


def _accept_any_text() -> None:
    """Print every text, whatever the encoding of the terminal: letters that it lacks are replaced.

    Names of files may hold bytes that are no UTF-8; they are printed as these bytes.
    """

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        text = error.object[error.start : error.end]
        if all("\udc80" <= letter <= "\udcff" for letter in text):
            return bytes(ord(letter) - 0xDC00 for letter in text), error.end
        return "?" * len(text), error.end

    codecs.register_error("lumina", replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="lumina")


def _close_stdout() -> None:
    """Send what plugins print at exit to stderr: it must not be appended to the JSON on stdout.

    Code in C and in child processes writes to the descriptor, so that it is exchanged too.
    """
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        os.dup2(2, 1)
    sys.stdout = sys.stderr


def _leave_threads(status: int) -> None:
    """End the process if threads of plugins still run, for which Python would wait without an end."""
    import threading

    # torch.compile keeps a pool of threads; Python ends the idle ones of any pool by the same function, but later
    if (pools := sys.modules.get("concurrent.futures.thread")) is not None:
        threading.Thread(target=pools._python_exit, daemon=True).start()
    deadline = time.monotonic() + THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            click.echo(
                f"Note: the thread {printable(thread.name)} of a plugin still runs; it is not waited for", err=True
            )
            sys.stderr.flush()
            os._exit(status)


def _run_exit_functions(status: int) -> None:
    """Run the functions registered for the exit; those of plugins can neither change the status nor hang."""
    import atexit
    import threading

    end = os._exit

    def give_up() -> None:
        print("Note: a function of a plugin at exit does not end; it is not waited for", file=sys.stderr, flush=True)
        end(status)

    timer = threading.Timer(EXIT_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    with exits_refused(), suppress(BaseException):
        atexit._run_exitfuncs()
    timer.cancel()


def run(arguments: list[str], debug: bool = False) -> int:
    """Run with these arguments and return the exit status: 2 for an invalid request, 1 for other errors."""
    try:
        null = next((argument for argument in arguments if "\0" in argument), None)
        if null is not None:
            raise ConfigError(f"argument: got a null character in {null[:80]!r}, expected text without one.")
        lumina.main(arguments, prog_name="lumina", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (ProcessExitError, GeneratorExit) as error:  # code of a plugin, while the command runs
        plugin = load_plugins().plugin_of(error)
        return _print_error(
            f"the plugin '{plugin}' tried to end the program ({_one_line(error_text(error))})", 1, debug
        )
    except (click.Abort, KeyboardInterrupt) as error:
        # click 8.1 raises Abort from None
        cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__ or error.__context__
        return _print_error(_one_line(str(cause or "")) or "stopped", 130)
    except click.NoSuchOption as error:
        return _print_error(_one_line(_unknown_option(error)), 2, debug)
    except click.ClickException as error:
        return _print_error(_one_line(error.format_message()), 2, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has closed the pipe: print no more
        return 1
    except ReportedError:
        return 1
    except LuminaError as error:
        return _print_error(_one_line(str(error)), 2 if isinstance(error, ConfigError) else 1, debug)
    except Exception as error:
        hint = "" if debug else " (--debug shows the traceback)"
        plugin = load_plugins().plugin_of(error)
        name = (
            f"unexpected {type(error).__name__}"
            if plugin is None
            else f"the plugin '{plugin}' failed: {type(error).__name__}"
        )
        return _print_error(f"{name}: {_one_line(error_text(error))}{hint}", 1, debug)
    return 0


def _print_error(message: str, status: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"Error: {message}" if status != 130 else message, err=True)
    return status


def _unknown_option(error: click.NoSuchOption) -> str:
    """Return the message about an unknown option, with the option of this command that was probably meant."""
    names: dict[str, str] = {}
    for parameter in error.ctx.command.get_params(error.ctx) if error.ctx else ():
        if isinstance(parameter, click.Option):
            names |= {name.lstrip("-").replace("-", "_"): name for name in (*parameter.opts, *parameter.secondary_opts)}
    hint = suggest(error.option_name.lstrip("-").replace("-", "_"), names)
    for plain, name in names.items():
        hint = hint.replace(f"'{plain}'", f"'{name}'")
    end = f" See: {error.ctx.command_path} --help" if error.ctx else ""
    return f"No such option: {error.option_name}{hint or '.'}{end}"


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_LINE_CHARS else f"{line[: MAX_LINE_CHARS // 2]} ... {line[-MAX_LINE_CHARS // 2 :]}"


def _load_command(module: str, name: str) -> click.Command:
    command: click.Command = getattr(importlib.import_module(module), name)
    return command
