import io
import sys

from lumina_core.cli.console import multi_progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_progress_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("baking", 3) as done:
        done(3)
    assert "baking" in sys.stderr.getvalue()


def test_without_a_terminal_or_with_quiet_nothing_is_written(monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("baking", 3, quiet) as done:
            done(3)
        assert stream.getvalue() == ""


def test_each_task_has_its_own_progress_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with multi_progress() as watch:
        watch("mixing", 1, 2)
        watch("baking", 3, 3)
        watch("mixing", 2, 2)
    assert "mixing" in sys.stderr.getvalue() and "baking" in sys.stderr.getvalue()
