"""Runs the load generator in load/, a small Go program."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import ContestantError
from benchmarks.scale import Scale

_SHARE_OF_OTHER_ANSWERS = 0.001
_PAIRS_A_SECOND = 100_000  # more than any server takes
OVERLOAD_CONNECTIONS = 20
OVERLOAD_DEADLINE = 1.0  # seconds


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
        warmup: float | None = None,
        rate: float = 0,
        hot_course: int = 0,
        token: str = "",
    ) -> Measured:
        """Measure one mode of one server. Raises ContestantError unless (almost) every answer is right."""
        load = {"in_flight": in_flight, "connections": connections, "rate": rate, "token": token}
        plan = self._plan(address, mode, scale, seconds or scale.seconds, scale.warmup if warmup is None else warmup)
        plan |= load
        if hot_course:
            del plan["first_index"]
            plan["hot_course"] = hot_course
        report = self._run(plan)
        other = report["other_total"] + report["refused_total"] + report["unanswered"]
        if report["ok"] == 0 or report["wrong"] or other > report["ok_total"] * _SHARE_OF_OTHER_ANSWERS:
            seen = f"{report['ok_total']} right, {report['wrong']} wrong, {other} other answers {report['statuses']}"
            raise ContestantError(f"{plan['mode']}: {seen} {report['problems'][:2]}")
        return Measured(report["rate"], report["p50_us"], report["p99_us"], report["ok_total"])

    def slice(
        self,
        address: str,
        mode: str,
        scale: Scale,
        *,
        in_flight: int = 64,
        connections: int = 8,
        hot_course: int = 0,
        token: str = "",
    ) -> Measured:
        """As `drive`, for one slice of a turn."""
        return self.drive(
            address,
            mode,
            scale,
            in_flight=in_flight,
            connections=connections,
            seconds=scale.slice_seconds,
            warmup=scale.slice_warmup,
            hot_course=hot_course,
            token=token,
        )

    def overload(self, address: str, mode: str, scale: Scale, rate: float) -> float:
        """Offer more than a server can do, each call with a deadline; right answers in time, a second.

        Whatever becomes of the other calls is their own affair. Raises ContestantError if an answer is wrong.
        """
        load = {"connections": OVERLOAD_CONNECTIONS, "rate": rate, "deadline_seconds": OVERLOAD_DEADLINE}
        report = self._run(self._plan(address, mode, scale, scale.seconds, scale.warmup) | load)
        if report["wrong"]:
            raise ContestantError(f"{mode}: {report['wrong']} wrong answers {report['problems'][:2]}")
        return float(report["rate"])

    def _plan(self, address: str, mode: str, scale: Scale, seconds: float, warmup: float) -> dict[str, Any]:
        """What every measure says. Enrollments get pairs of their own."""
        first = self.used_pairs
        self.used_pairs += math.ceil(_PAIRS_A_SECOND * (seconds + warmup)) if mode.endswith("enroll") else 0
        return {
            "address": address,
            "mode": mode,
            "seconds": seconds,
            "warmup_seconds": warmup,
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
