import io
import sys

from lumina_core.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_where_somebody_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress("baking", 3) as done:
        done(3)
    assert "baking" in sys.stderr.getvalue()


def test_nothing_at_all_is_written_where_nobody_watches_or_quiet_is_asked(monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("baking", 3, quiet) as done:
            done(3)
        assert stream.getvalue() == ""
