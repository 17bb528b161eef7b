"""Guard around the code of plugins: the one that runs is known, and the process survives with its settings."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lumina_core.io import host_id, is_running

NOTE_SECONDS = 3.0
"""Time after which a plugin that is still being imported is named."""
COMPONENT_NOTE_SECONDS = 30.0
"""The same for a component, which may import torch and other large libraries first."""
MAX_ERROR_CHARS = 500
_EXITS = ("_exit", "abort", "execv", "execve")
_SIGNALS = ("SIGINT", "SIGTERM", "SIGPIPE", "SIGHUP", "SIGALRM", "SIGCHLD")
_user_interrupt = threading.Event()


class ProcessExitError(BaseException):
    """A plugin called a function that would have ended the process, such as os._exit."""


def is_user_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C, and not a KeyboardInterrupt that a plugin raised itself."""
    return isinstance(error, KeyboardInterrupt) and _user_interrupt.is_set()


@contextmanager
def plugin_code(
    plugin: str,
    distribution: str,
    is_trusted: bool = False,
    others: Iterable[str] = (),
    is_import: bool = True,
    note_seconds: float = NOTE_SECONDS,
) -> Iterator[None]:
    """Run code of a plugin within `with`.

    What it prints goes to stderr. After `note_seconds` a note names it. If it ends the process (a crash of compiled
    code), the next start names it, see `report_crash`. Functions that end the process at once raise ProcessExitError
    instead. Afterwards, settings of the process are as they were before: working directory, signal handlers, warning
    filters, streams, and torch's defaults.

    Args:
        plugin: its name.
        distribution: name and version of its distribution, for messages.
        is_trusted: whether it belongs to this project: then it is not watched for crashes.
        others: names of the other plugins, which a note offers to start with.
        is_import: whether a module is imported: only then it is watched.
        note_seconds: time until the note.
    """
    marker = None if is_trusted or not is_import else _write_marker(plugin, distribution)
    hint = f"To start without it: LUMINA_PLUGINS={','.join(name for name in others if name != plugin) or 'core'}"
    text = f"Note: the plugin '{plugin}' ({distribution}) is still being imported. {hint}"
    timer = threading.Timer(note_seconds, lambda: print(text, file=sys.__stderr__, flush=True))
    timer.daemon = True
    if is_import:
        timer.start()
    try:
        with _interrupt_watched(plugin, hint), _settings_preserved(), exits_refused(), _output_to_stderr():
            yield
    finally:
        timer.cancel()
        if marker is not None:
            with suppress(OSError):
                marker.unlink()


def error_text(error: BaseException) -> str:
    """Return the message of an error in one line, at most MAX_ERROR_CHARS; the message may itself fail."""
    try:
        text = " ".join(str(error).split())
    except BaseException as second:
        return f"no message: its __str__ raised {type(second).__name__}"
    return (text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}...") or "no message"


def report_crash(plugins: Iterable[str]) -> None:
    """Name the plugin at whose import an earlier start ended, once, on stderr."""
    folder = _marker_dir()
    if folder is None:
        return
    with suppress(OSError):
        for path in sorted(folder.glob(f"importing-{host_id()}-*.json")):
            with suppress(OSError, ValueError, LookupError, TypeError):
                number = int(path.stem.rpartition("-")[2])
                if number == os.getpid() or is_running(number, path):
                    continue
                content = json.loads(path.read_text(encoding="utf-8"))
                path.unlink()
                plugin = str(content["plugin"])
                others = ",".join(name for name in plugins if name != plugin) or "core"
                source = f"'{plugin}' ({content['distribution']})"
                print(
                    f"Note: an earlier start ended while the plugin {source} was imported. "
                    f"To start without it: LUMINA_PLUGINS={others}",
                    file=sys.stderr,
                )


def _marker_dir() -> Path | None:
    with suppress(RuntimeError):  # no home folder
        return Path(os.environ.get("LUMINA_CACHE") or Path.home() / ".cache" / "lumina")
    return None


def _write_marker(plugin: str, distribution: str) -> Path | None:
    folder = _marker_dir()
    if folder is None:
        return None
    path = folder / f"importing-{host_id()}-{os.getpid()}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"plugin": plugin, "distribution": distribution}), encoding="utf-8")
    except OSError:  # without a writable cache, a crash is not named
        return None
    return path


@contextmanager
def _interrupt_watched(plugin: str, hint: str) -> Iterator[None]:
    """Note whether SIGINT arrives, and name the plugin that it stops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        _user_interrupt.set()
        print(f"Note: stopped while the plugin '{plugin}' was imported. {hint}", file=sys.__stderr__, flush=True)
        raise KeyboardInterrupt

    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # a program that embeds this one has its own
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def exits_refused() -> Iterator[None]:
    """Let the functions that end or replace the process raise ProcessExitError, except in a child process."""
    originals, pid = {name: getattr(os, name) for name in _EXITS if hasattr(os, name)}, os.getpid()

    def refusing(name: str) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != pid:
                return originals[name](*args, **kwargs)
            raise ProcessExitError(f"os.{name}({', '.join(map(repr, args))})")

        return refuse

    for name in originals:
        setattr(os, name, refusing(name))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(os, name, function)


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send output to stderr, also that of compiled code, which writes to the descriptor."""
    saved = -1
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved >= 0:
            os.dup2(saved, 1)
            os.close(saved)


@contextmanager
def _settings_preserved() -> Iterator[None]:
    """Restore settings of the process that code of others must not change for everything else."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)] if is_main else []
    handlers = {number: signal.getsignal(number) for number in numbers}
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "stdin", "excepthook")}
    limit, torch_settings = sys.getrecursionlimit(), _torch_settings()
    folder = None
    with suppress(OSError):
        folder = os.getcwd()
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for name, stream in streams.items():
            setattr(sys, name, stream)
        sys.setrecursionlimit(limit)
        os.umask(umask)
        with suppress(OSError):
            if folder is not None and os.getcwd() != folder:
                os.chdir(folder)
        _restore_torch(torch_settings)


def _torch_settings() -> dict[str, Any]:
    """Return torch's global settings; its initial ones if it is not imported yet."""
    torch = _imported_torch()
    if torch is None:
        return {}
    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "device": _default_device(),
        "mkldnn": torch.backends.mkldnn.enabled,
    }


def _restore_torch(settings: dict[str, Any]) -> None:
    torch = _imported_torch()
    if torch is None:
        return
    initial = {"dtype": torch.float32, "grad": True, "deterministic": False, "precision": "highest", "device": None}
    settings = settings or initial
    setters = {
        "dtype": torch.set_default_dtype,
        "grad": torch.set_grad_enabled,
        "deterministic": torch.use_deterministic_algorithms,
        "precision": torch.set_float32_matmul_precision,
        "threads": torch.set_num_threads,
        "device": torch.set_default_device,
    }
    current = _torch_settings()
    for name, setter in setters.items():
        if name in settings and current[name] != settings[name]:
            setter(settings[name])
    if "mkldnn" in settings and current["mkldnn"] != settings["mkldnn"]:
        torch.backends.mkldnn.enabled = settings["mkldnn"]


def _imported_torch() -> Any:
    """Return torch if it is imported, and not half of it (its import may have failed)."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and hasattr(torch, "set_default_dtype") else None


def _default_device() -> Any:
    """Return the default device that was set; None if none was."""
    module = sys.modules.get("torch.utils._device")
    return None if module is None else vars(module).get("CURRENT_DEVICE")
