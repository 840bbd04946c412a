"""REST, called at random as docs/openapi.json describes it: nothing breaks it, and every answer is a described one.

FUZZ_SECONDS says for how long.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import pytest

from tests.support.door import door_to, require_envoy
from tests.support.processes import PROJECT, environment
from tests.support.services import Service

SECONDS = int(os.environ.get("FUZZ_SECONDS", "45"))
TOOLS = ".venv/fuzz"


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 240)
async def test_nothing_breaks_it_and_every_answer_is_described(service: Service) -> None:
    """It gets Schemathesis from PyPI."""
    require_envoy()
    await asyncio.to_thread(subprocess.run, ["make", f"{TOOLS}/installed"], cwd=PROJECT, check=True)
    students, courses = await service.client.students(3), await service.client.courses(3, capacity=1)
    await service.client.enroll(students[0], *courses)
    async with door_to(service.address) as door:
        options = ["--config-file", "tests/deploy/schemathesis.toml"]
        limits = ["--max-time", f"{SECONDS}", "--request-timeout", "20", "--no-color"]
        target = ["run", f"http://{door.address}/openapi.json"]
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "schemathesis.cli", *options, *target, *limits],
            cwd=PROJECT,
            env=environment() | {"PYTHONPATH": f"{PROJECT / TOOLS}"},
            capture_output=True,
            text=True,
        )
    print(ran.stdout[-5000:])
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    (cases,) = re.findall(r"(\d+) generated", ran.stdout)
    assert int(cases) > 100
