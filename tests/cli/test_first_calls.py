"""What `make run` prints to try works as it stands, one after the other."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys

import pytest

from enrollment_service.cli import main
from enrollment_service.settings import Settings
from tests.support.processes import PROJECT, environment
from tests.support.services import Service


async def test_the_first_calls_work_as_printed(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "run_migrations", lambda _: None)
    monkeypatch.setattr(main, "run_server", lambda _: None)
    main._serve_for_development(Settings(profile="dev", listen=service.address))
    commands = re.findall(r"^  (\.venv/.*)$", capsys.readouterr().err, re.MULTILINE)
    assert len(commands) == 3
    answers = []
    for command in commands:
        python, *arguments = shlex.split(command)
        assert python == ".venv/bin/python"
        ran = await asyncio.to_thread(
            subprocess.run, [sys.executable, *arguments], env=environment(), cwd=PROJECT, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        answers.append(json.loads(ran.stdout))
    assert answers[-1]["enrollments"][0]["state"] == "ENROLLMENT_STATE_ENROLLED"
