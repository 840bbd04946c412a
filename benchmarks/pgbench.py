"""The peers that skip gRPC: pgbench running the same transaction, and psql COPY of the same rows."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.contestants import ContestantError
from benchmarks.database import Database, libpq_environment
from benchmarks.dataset import CAPACITY, SPREAD
from benchmarks.scale import Scale

_SCRIPTS = Path(__file__).parent / "peers"
_HOT_CLIENTS = (4, 8, 16, 32)


def random_courses(database: Database, url: str, scale: Scale) -> float:
    """Enrollments a second on random courses, 32 clients."""
    _pgbench(database, url, scale, "enroll.pgbench.sql", 32, scale.warmup)
    return _pgbench(database, url, scale, "enroll.pgbench.sql", 32, scale.seconds, 1)


def hot_course(database: Database, url: str, scale: Scale, courses: list[int]) -> float:
    """Enrollments a second in one course, at the number of clients that serves pgbench best."""
    return max(
        _pgbench(database, url, scale, "hot.pgbench.sql", clients, scale.short_seconds, course=course)
        for clients, course in zip(_HOT_CLIENTS, courses, strict=True)
    )


HOT_TRIALS = len(_HOT_CLIENTS)


def _pgbench(
    database: Database,
    url: str,
    scale: Scale,
    script: str,
    clients: int,
    seconds: float,
    part: int = 0,
    course: int = 0,
) -> float:
    program = database.program("pgbench")
    if program is None:
        raise ContestantError("pgbench is not installed (it comes with PostgreSQL, 14 or later)")
    variables = {
        "clients": clients,
        "students": scale.students,
        "courses": scale.courses,
        "per_student": scale.per_student,
        "stride": scale.stride,
        "spread": SPREAD,
        "course": course,
        # Warm-up and measure take pairs of different parts, so that none repeats.
        "i": part * scale.enrollments // 2 // clients,
    }
    command = [program, "--no-vacuum", "--protocol=prepared", "--jobs=1", f"--client={clients}"]
    command += [f"--define={name}={value}" for name, value in variables.items()]
    command += [f"--time={max(1, round(seconds))}", f"--file={_SCRIPTS / script}"]
    finished = subprocess.run(
        command, env=libpq_environment(url), capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    rate = re.search(r"^tps = ([0-9.]+)", finished.stdout, re.MULTILINE)
    if finished.returncode != 0 or rate is None:
        raise ContestantError(f"pgbench: {finished.stderr.strip()[-300:]}")
    return float(rate[1])


def copy_rows(database: Database, url: str, pairs: list[tuple[int, int]], last_sequence: dict[int, int]) -> float:
    """Pairs a second by COPY: the rows, their events and the counts, in one transaction, constraints in place."""
    program = database.program("psql")
    if program is None:
        raise ContestantError("psql is not installed")
    with tempfile.TemporaryDirectory() as folder:
        script = _copy_script(Path(folder), pairs, last_sequence)
        command = [program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={script}"]
        began = time.perf_counter()
        finished = subprocess.run(
            command, env=libpq_environment(url), capture_output=True, text=True, timeout=300, check=False
        )
        seconds = time.perf_counter() - began
    if finished.returncode != 0:
        raise ContestantError(f"psql: {finished.stderr.strip()[-300:]}")
    return len(pairs) / seconds


def _copy_script(folder: Path, pairs: list[tuple[int, int]], last_sequence: dict[int, int]) -> Path:
    now = time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime())
    sequence = dict(last_sequence)
    rows, events = [], []
    for student, course in pairs:
        sequence[course] += 1
        rows.append(f"{student}\t{course}\t{now}\t1\t{sequence[course]}\t{now}\n")
        counts = f"{sequence[course] - 1}\t0\t{CAPACITY}"
        events.append(f"{course}\t{sequence[course]}\t1\t{student}\t0\t1\t{counts}\t{now}\n")
    added = Counter(course for _, course in pairs)
    (folder / "rows").write_text("".join(rows))
    (folder / "events").write_text("".join(events))
    (folder / "counts").write_text("".join(f"{course}\t{n}\n" for course, n in added.items()))
    script = folder / "script.sql"
    script.write_text((_SCRIPTS / "copy.sql").read_text().replace("{folder}", str(folder)))
    return script
