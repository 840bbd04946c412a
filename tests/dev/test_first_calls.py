"""What `make run` prints to try works as it stands, one after the other."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys

from dev.first_calls import command_lines
from tests.support.processes import PROJECT, environment
from tests.support.services import Service


async def test_the_first_calls_work_as_printed(service: Service) -> None:
    answers = []
    for command in command_lines(service.address):
        python, *arguments = shlex.split(command)
        assert python == ".venv/bin/python"
        ran = await asyncio.to_thread(
            subprocess.run, [sys.executable, *arguments], env=environment(), cwd=PROJECT, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        answers.append(json.loads(ran.stdout))
    assert answers[-1]["enrollments"][0]["state"] == "ENROLLMENT_STATE_ENROLLED"
