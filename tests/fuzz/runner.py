"""Runs bad inputs, each in a fork of one process, and says what is wrong with the answer."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from fuzz.bad_inputs import Case

LIMIT_SECONDS = 20
"""Longest time of one case."""
MAX_LINE_CHARS = 1500
MAX_LINES = 6
"""Most lines on stderr: the error, and notes and warnings before it."""


@dataclass(frozen=True)
class Answer:
    """Exit status (negative: signal), outputs and duration of a command."""

    status: int
    out: str
    err: str
    seconds: float


def run_case(case: Case, folder: Path, models: dict[str, Path]) -> list[str]:
    """Run a case in an empty folder, and return the faults of its answer; none: it is right."""
    work, logs = folder / "work", folder / "logs"
    work.mkdir(parents=True)
    logs.mkdir()
    task = "audio" if "audio" in case.arguments[:1] or "audio.tiny" in case.arguments else "image"
    case.prepare(work, models[task])
    before = snapshot(work)
    arguments = [
        a.replace("{dir}", str(work)).replace("{image}", str(models["image"])).replace("{audio}", str(models["audio"]))
        .replace("{{", "{").replace("}}", "}")
        for a in case.arguments
    ]  # fmt: skip
    answer = run_forked(arguments, work, logs)
    return list(faults_of(case, answer, before, snapshot(work)))


def snapshot(folder: Path) -> dict[str, object]:
    """Return kind and content of everything in a folder; large files by their size."""
    found: dict[str, object] = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root) / name
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file():
                found[str(path)] = path.read_bytes() if path.stat().st_size < 10**6 else path.stat().st_size
            else:
                found[str(path)] = path.lstat().st_mode
    return found


def run_forked(arguments: list[str], folder: Path, logs: Path) -> Answer:
    """Run `lumina` in a child process, in a folder; it is killed after LIMIT_SECONDS."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_child(arguments, folder, logs)
    status = None
    while status is None and time.monotonic() - started < LIMIT_SECONDS:
        done, code = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else None
        time.sleep(0.005)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        status = -signal.SIGALRM
    texts = [(logs / name).read_bytes().decode(errors="surrogateescape") for name in ("out", "err")]
    return Answer(status, *texts, time.monotonic() - started)


def _run_child(arguments: list[str], folder: Path, logs: Path) -> None:
    status = 99
    try:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), "utf-8", "replace") for n in (1, 2)
        )
        from lumina_core.cli.main import run

        status = run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


def faults_of(case: Case, answer: Answer, before: dict[str, object], after: dict[str, object]):
    """Yield what is wrong with an answer."""
    if answer.status == -signal.SIGALRM:
        yield f"no answer within {LIMIT_SECONDS} s"
        return
    if answer.status < 0:
        yield f"killed by signal {-answer.status}"
    if "Traceback" in answer.err or "Error: unexpected " in answer.err or answer.status == 99:
        yield f"a traceback or an unexpected error: {answer.err[-400:]}"
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in answer.err + answer.out):
        yield f"control characters on the terminal: {answer.err[:200]!r}"
    if answer.status == 0 and not case.may_succeed:
        yield f"a wrong success: {answer.out[-200:]}"
    changed = [path for path in before if before[path] != after.get(path)]
    if changed:
        yield f"changed or deleted {changed[:3]}"
    if answer.status != 0:
        lines = answer.err.splitlines()
        if not lines or not any(line.startswith("Error: ") for line in lines) or len(lines) > MAX_LINES:
            yield f"not one clear line: {answer.err[-400:]!r}"
        new = sorted(set(after) - set(before))
        if new:
            yield f"left {new[:4]}"
        if max(map(len, lines), default=0) > MAX_LINE_CHARS:
            yield f"a line of {max(map(len, lines))} characters: {max(lines, key=len)[:300]}"
