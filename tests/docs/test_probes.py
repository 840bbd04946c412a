"""The probes for Kubernetes in docs/operating.md: each command is run, and says what its probe is for."""

from __future__ import annotations

from typing import Any

import yaml

from enrollment_service.api.health import READY
from tests.docs.documents import blocks, read, rows, section
from tests.support.client import SERVICE
from tests.support.processes import run_command
from tests.support.services import Service

PAGE = "docs/operating.md"
PYTHON = ["python", "-m", "enrollment_service"]


def probes() -> dict[str, Any]:
    (block,) = blocks("yaml", section(PAGE, "Health"))
    found: dict[str, Any] = yaml.safe_load(block)
    return found


async def said(service: Service) -> dict[str, int]:
    """The exit status of each probe."""
    statuses = {}
    for name, probe in probes().items():
        command = probe["exec"]["command"]
        assert command[:3] == PYTHON
        listen = f"127.0.0.1:{service.app.port}"
        statuses[name] = (await run_command(*command[3:], LISTEN=listen)).returncode
    return statuses


async def test_only_readiness_depends_on_the_database(service: Service) -> None:
    assert await said(service) == {"startupProbe": 0, "livenessProbe": 0, "readinessProbe": 0}
    service.app._health.set([READY], serving=False)
    assert await said(service) == {"startupProbe": 0, "livenessProbe": 0, "readinessProbe": 1}


def test_the_names_are_those_that_are_served() -> None:
    assert [row[0] for row in rows(section(PAGE, "Health"))] == ['`""`', f"`{SERVICE}`", f"`{READY}`"]
    assert f"service: {READY}}}" in read(PAGE)
