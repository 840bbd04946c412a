"""The demo: it plays to its end, tells the truth by its exit status, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from rich.console import Console

from demo import __main__ as demo
from demo.board import Board
from demo.office import Office

KEY_LINES = (
    "ok: Exactly 30 have a seat, 40 wait, 230 were refused",
    "ok: The seats went to waiters 1 to 10, in that order",
    "COURSE_FULL, and the seat in PHO-150 is kept",
    "keeps the seat until it is free, and then has just that",
    "ok: Three who are first in line for each other's seats trade all at once",
    "ok: Nothing has changed by asking",
    "ok: Four calls, one answer, one seat",
    "ok: Who had an answer got the very same one again",
    "ok: 15 more seats: the first 15 waiters have them, before anybody could ask",
    "ok: The feed went on from its token on the new server: of every course each event, once and in order",
    "ok: verify finds nothing wrong",
    "ok: SIGTERM drains the server: exit status 0",
)


def start(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"TMPDIR": f"{folder}"}
    return subprocess.Popen([sys.executable, "-m", "demo"], env=environment, stdout=PIPE, stderr=PIPE, text=True)


def ended(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.long
def test_every_claim_holds(tmp_path: Path) -> None:
    with start(tmp_path) as playing:
        output, errors = playing.communicate(timeout=50)

    assert playing.returncode == 0, output + errors
    assert [line for line in KEY_LINES if line not in output] == []
    assert re.search(r"^(\d+) of \1 claims held", output, re.MULTILINE)
    assert re.search(r"ok: The board, filled by \d+ events and nothing else, shows what the lists say", output)
    assert "promoted 30," in output
    assert "NOT SO" not in output
    assert errors == ""
    assert "\x1b" not in output
    assert list(tmp_path.iterdir()) == []


def test_it_cleans_up_when_it_is_ended(tmp_path: Path) -> None:
    with start(tmp_path) as playing:
        assert playing.stdout is not None
        served = next(found for line in playing.stdout if (found := re.search(r"server is process (\d+)", line)))
        playing.send_signal(signal.SIGTERM)
        _, errors = playing.communicate(timeout=50)

    assert playing.returncode == 130
    assert errors == "Interrupted.\n"
    assert ended(int(served[1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("held", "status"), [(True, 0), (False, 1)])
def test_a_claim_that_does_not_hold_makes_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: bool, status: int
) -> None:
    async def play(board: Board, _office: Office, _console: Console) -> None:
        board.claim("Seats are seats", held, "no seats")

    monkeypatch.setattr(demo, "_play", play)
    assert demo._run(Board(live=False, fast=True, chapters=1), Console()) == status
    assert ("NOT SO: Seats are seats (seen: no seats)" in capsys.readouterr().out) is not held
