"""What importing the client costs: grpc and the stubs, and nothing of the server."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"sqlalchemy", "asyncpg", "alembic", "pydantic", "pydantic_settings", "uvloop", "structlog", "click", "orjson"}
SERVER = {"api", "app", "engine", "store", "domain", "cli", "telemetry", "settings"}


def test_the_client_is_light() -> None:
    code = "import sys, enrollment_service.client; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert "enrollment_service.client.client" in loaded
    assert loaded & HEAVY == set()
    ours = {name.split(".")[1] for name in loaded if name.startswith("enrollment_service.")}
    assert ours & SERVER == set()
    assert ours == {"client", "v1"}
