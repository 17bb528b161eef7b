import io
import sys

from lumina_core.cli.console import multi_progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_where_somebody_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("baking", 3) as done:
        done(3)
    assert "baking" in sys.stderr.getvalue()


def test_nothing_at_all_is_written_where_nobody_watches_or_quiet_is_asked(monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("baking", 3, quiet) as done:
            done(3)
        assert stream.getvalue() == ""


def test_several_kinds_of_work_have_a_bar_each(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with multi_progress() as watch:
        watch("mixing", 1, 2)
        watch("baking", 3, 3)
        watch("mixing", 2, 2)
    assert "mixing" in sys.stderr.getvalue() and "baking" in sys.stderr.getvalue()
