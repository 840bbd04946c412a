"""The reference page, seen by a real browser that is told to load nothing from anywhere else."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

from tests.support import debian
from tests.support.door import door_to
from tests.support.processes import PROJECT, free_port


async def test_a_browser_shows_every_operation(tmp_path: Path) -> None:
    browser = debian.program("chromium", "chromium")
    async with door_to(f"127.0.0.1:{free_port()}") as door:
        moved = await door.ask("GET", "/")
        assert (moved.status, moved.headers["location"]) == (302, f"http://{door.address}/docs")
        page = await asyncio.to_thread(seen, browser, f"http://{door.address}/docs", tmp_path)
        policy = (await door.ask("GET", "/docs")).headers["content-security-policy"]
    assert "default-src 'self';" in policy
    document = json.loads((PROJECT / "docs" / "openapi.json").read_text())
    operations = [one["operationId"] for item in document["paths"].values() for one in item.values()]
    assert [name for name in operations if f'operation/{name}"' not in page] == []
    assert "who sits in which course" in page
    assert re.findall(r"<script[^>]+src=\"([^\"]+)", page) == ["/docs/redoc.standalone.js"]
    assert "Something went wrong" not in page


def seen(browser: str, address: str, folder: Path) -> str:
    """What a page has become, once its scripts have run."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    command = [browser, *options, "--virtual-time-budget=30000", "--dump-dom", address]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout
