"""`python -m faults [NUMBER ...]`: plays rows of the fault matrix, all of them by default, and checks what they left.

SEED says which wishes, times and victims are drawn; QUICK=1 plays a tenth of the time. Histories go to build/faults.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from faults.checker import violations
from faults.load import Load
from faults.record import OK, REFUSED, UNKNOWN, Recorder
from faults.rows import CONTROL, CONTROLS, ROWS, Control, Row, Turn
from faults.site import BrokenPromiseError, CannotPlayError, Watcher, evidence, populate, site
from tests.support.databases import connected
from tests.support.processes import SERVE

_BUILD = Path("build/faults")
_QUICK_SHARE = 0.1
_SERVERS, _STUDENTS, _COURSES = 2, 40, 6
_LEAST_SECONDS = 2.0
_SHOWN = 5  # violations of a row


async def play(row: Row, seed: int, share: float, control: Control | None = None) -> tuple[list[str], dict[str, str]]:
    """What was wrong with a row, and what can be told about it."""
    recorder = Recorder(_BUILD / f"{control.name if control else f'row-{row.number}'}.jsonl")
    wrong: list[str] = []
    async with site(row.kind) as made:
        python = ("-m", "tests.support.broken", control.name) if control else SERVE
        await made.start(_SERVERS, python, row.settings)
        if control and control.statements:
            async with connected(made.postgres.url) as connection:
                await connection.execute(control.statements)
        school = await populate(made, _STUDENTS, _COURSES)
        least, most = row.deadlines
        load = Load(recorder, made.addresses, school, seed, deadline=lambda chance: chance.uniform(least, most))
        watcher = Watcher(made.addresses, seed)
        turn = Turn(made, load, random.Random(seed), max(_LEAST_SECONDS, row.seconds * share))  # noqa: S311
        with recorder.writing():
            watching, working = asyncio.create_task(watcher.run()), asyncio.create_task(load.run())
            try:
                await _or_wrong(row.play(turn), wrong)
            finally:
                load.stop()
                await working
            await _or_wrong(made.until_quiet(), wrong)
            judged = await evidence(made, recorder.operations, watcher, seed)
            watching.cancel()
        recorder.keep(judged.changes)
    wrong += violations(judged)
    return wrong, _told(recorder) | turn.figures


async def _or_wrong(promised: Awaitable[None], wrong: list[str]) -> None:
    try:
        await promised
    except BrokenPromiseError as error:
        wrong.append(str(error))


def _told(recorder: Recorder) -> dict[str, str]:
    outcomes = [one.outcome for one in recorder.operations]
    counted = ", ".join(f"{outcomes.count(kind)} {name}" for kind, name in _NAMES.items() if outcomes.count(kind))
    return {"operations": f"{len(outcomes)} ({counted})"}


_NAMES = {OK: "done", REFUSED: "refused", UNKNOWN: "unknown"}


def main() -> int:
    """Plays the chosen rows, and in a full run the controls; 1 if one of them failed."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    share = _QUICK_SHARE if os.environ.get("QUICK") else 1.0
    chosen = {int(number) for number in sys.argv[1:]}
    _BUILD.mkdir(parents=True, exist_ok=True)
    print(f"SEED={seed}", flush=True)
    verdicts = [_row(row, seed, share) for row in ROWS if not chosen or row.number in chosen]
    if not chosen and share == 1.0:
        verdicts += [_control(control, seed) for control in CONTROLS]
    counts = [verdicts.count(True), verdicts.count(False), verdicts.count(None)]
    print("{} passed, {} failed, {} skipped".format(*counts))
    return 1 if False in verdicts else 0


def _row(row: Row, seed: int, share: float) -> bool | None:
    """Whether it passed; None: it could not be played."""
    began = time.monotonic()
    try:
        wrong, figures = asyncio.run(play(row, seed, share))
    except CannotPlayError as error:
        print(f"{row.number:3} skipped {row.name}: {error}", flush=True)
        return None
    _say(f"{row.number:3}", not wrong, row.name, began, figures)
    for line in wrong[:_SHOWN]:
        print(f"      {line}", flush=True)
    if len(wrong) > _SHOWN:
        print(f"      and {len(wrong) - _SHOWN} more", flush=True)
    return not wrong


def _control(control: Control, seed: int) -> bool:
    began = time.monotonic()
    wrong, figures = asyncio.run(play(CONTROL, seed, 1.0, control))
    _say("   ", bool(wrong), f"control: {control.name}", began, figures | {"noticed": wrong[0] if wrong else "nothing"})
    return bool(wrong)


def _say(number: str, passed: bool, name: str, began: float, figures: dict[str, str]) -> None:
    told = ", ".join(f"{key}: {value}" for key, value in figures.items())
    print(f"{number} {'passed' if passed else 'FAILED'} {name} ({time.monotonic() - began:.0f} s): {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
