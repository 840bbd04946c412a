"""The service's image, as far as it can be known without building it: what its recipe says, and what that makes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from enrollment_service import __version__
from tests.support.processes import PROJECT, run_command
from tests.support.services import Service

RECIPE = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    """What is said in the instructions of a name."""
    return re.findall(rf"^{name} (.*)$", RECIPE, re.MULTILINE)


def compiled(folder: Path, flags: list[str], time: int) -> dict[str, str]:
    """The bytecode of a checkout of some time, by its digest."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROJECT / "enrollment_service", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for source in folder.rglob("*.py"):
        os.utime(source, (time, time))
    beside_the_source = {name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}
    subprocess.run([sys.executable, "-m", "compileall", *flags, f"{folder}"], check=True, env=beside_the_source)
    return {f"{path.relative_to(folder)}": sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.pyc")}


def test_what_is_compiled_twice_is_the_same(tmp_path: Path) -> None:
    (command,) = [line for line in instructions("RUN") if "compileall" in line]
    flags = shlex.split(command.partition("&&")[0])[3:-2]
    first, second = (compiled(tmp_path / "app", flags, time) for time in (1_000_000_000, 1_100_000_000))
    assert len(first) > 50
    assert first == second
    # The negative control: by default, the time of the source is in it.
    first, second = (compiled(tmp_path / "app", ["-q", "-f"], time) for time in (1_000_000_000, 1_100_000_000))
    assert first != second


def test_labels_say_what_it_is() -> None:
    (labels,) = instructions("LABEL")
    told = dict(one.split("=", 1) for one in shlex.split(labels))
    assert told["org.opencontainers.image.version"] == __version__
    assert told["org.opencontainers.image.title"] == "enrollment-service"
    assert told["org.opencontainers.image.licenses"] in (PROJECT / "pyproject.toml").read_text()


async def test_the_health_check_asks_the_server_in_the_container(service: Service) -> None:
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:3] == json.loads(instructions("ENTRYPOINT")[0])
    listen = f"127.0.0.1:{service.app.port}"
    assert (await run_command(*command[3:], LISTEN=listen)).returncode == 0
    await service.app.drain()
    assert (await run_command(*command[3:], LISTEN=listen)).returncode != 0


def test_it_is_not_root_and_installs_what_is_locked() -> None:
    assert instructions("USER") == ["10001:10001"]
    (install,) = [line for line in instructions("RUN") if "pip install" in line]
    assert {"--require-hashes", "--no-deps", "--no-compile"} <= set(shlex.split(install))
