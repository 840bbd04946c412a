"""The peers that skip gRPC: pgbench running the same transaction, and psql COPY of the same rows."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.contestants import ContestantError
from benchmarks.database import Database, libpq_environment
from benchmarks.dataset import CAPACITY, SPREAD
from benchmarks.generator import Generator
from benchmarks.scale import Scale

_SCRIPTS = Path(__file__).parent / "peers"
_CLIENTS = 32
_HOT_CLIENTS = (4, 8, 16, 32)
_SECONDS = 1  # to connect, too; it knows no shorter run


class Pgbench:
    """pgbench on one copy of the data. No run repeats a pair of an earlier one."""

    def __init__(self, database: Database, url: str, scale: Scale, generator: Generator) -> None:
        """generator: who knows which courses are still empty."""
        self._database = database
        self._url = url
        self._scale = scale
        self._generator = generator
        self._walked = 0  # pairs of each client, of those that are kept for pgbench
        self._best_clients = 0

    def random(self) -> float:
        """Enrollments a second on random courses."""
        rate = self._run("enroll.pgbench.sql", _CLIENTS, start=self._walked)
        # Clients do not come equally far.
        self._walked += math.ceil(rate / _CLIENTS * 3)
        return rate

    def hot(self) -> float:
        """Enrollments a second in one course, with the number of clients that served pgbench best the first time."""
        if self._best_clients:
            return self._run_hot(self._best_clients)
        rates = {clients: self._run_hot(clients) for clients in _HOT_CLIENTS}
        best = self._best_clients = max(rates, key=rates.__getitem__)
        return rates[best]

    def _run_hot(self, clients: int) -> float:
        return self._run("hot.pgbench.sql", clients, course=self._generator.next_hot_course(self._scale))

    def _run(self, script: str, clients: int, *, start: int = 0, course: int = 0) -> float:
        program = self._database.program("pgbench")
        if program is None:
            raise ContestantError("pgbench is not installed (it comes with PostgreSQL, 14 or later)")
        variables = {
            "clients": clients,
            "students": self._scale.students,
            "courses": self._scale.courses,
            "per_student": self._scale.per_student,
            "stride": self._scale.stride,
            "spread": SPREAD,
            "course": course,
            "i": start,
        }
        command = [program, "--no-vacuum", "--protocol=prepared", "--jobs=1", f"--client={clients}"]
        command += [f"--define={name}={value}" for name, value in variables.items()]
        command += [f"--time={_SECONDS}", f"--file={_SCRIPTS / script}"]
        finished = subprocess.run(
            command, env=libpq_environment(self._url), capture_output=True, text=True, timeout=60, check=False
        )
        rate = re.search(r"^tps = ([0-9.]+)", finished.stdout, re.MULTILINE)
        if finished.returncode != 0 or rate is None:
            reason = finished.stderr.strip()[-300:] or f"connected, but did nothing within {_SECONDS} s"
            raise ContestantError(f"pgbench: {reason}")
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
