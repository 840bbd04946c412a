"""docs/clients.md does what it says: its programs run, in order, on a new service, and its tables are the code's."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import subprocess
import sys
from functools import cache
from typing import Any

from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Refused, ServiceError
from enrollment_service.client.methods import METHODS
from tests.client.test_service_config import ENTRIES
from tests.support.processes import PROJECT, environment
from tests.support.services import Service

PAGE = PROJECT / "docs" / "clients.md"
VOLATILE = re.compile(r'"20\d\d-[^"]+Z"')


@cache
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page(), re.DOTALL | re.MULTILINE)
    return [body for name, body in fenced if name == language]


async def run(*arguments: str, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment(LISTEN=address), cwd=PROJECT, capture_output=True, text=True
    )


async def test_the_examples_run_as_shown(service: Service) -> None:
    program, *snippets = blocks("python")
    ran = await run("-c", program.replace("127.0.0.1:50051", service.address), address=service.address)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [ran.stdout] == blocks("")
    async with EnrollmentClient(service.address) as client:
        names: dict[str, Any] = {
            "client": client, "Refused": Refused, "OutcomeUnknown": OutcomeUnknown,
            "EnrollmentClient": EnrollmentClient, "ann": await client.get_student(1),
            "drawing": await client.get_course(1),
        }  # fmt: skip
        for snippet in snippets:
            code = compile(snippet, f"{PAGE}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if inspect.iscoroutine(running := eval(code, names)):  # noqa: S307 - the page is the test
                await running
    assert [row.split() for row in names["roster"]] == [["Ann", "Lee"]]
    assert names["drawing"].capacity == 40


async def test_the_commands_answer_as_shown(service: Service) -> None:
    await service.client.create_student("Ann Lee", "ann@example.org")
    for block in blocks("console"):
        command, _, expected = block.partition("\n")
        prompt, python, *arguments = shlex.split(command)
        assert (prompt, python) == ("$", "python")
        ran = await run(*arguments, address=service.address)
        assert VOLATILE.sub("", ran.stdout + ran.stderr) == VOLATILE.sub("", expected)


def test_the_attributes_of_an_error_are_all_there() -> None:
    table = page().partition("| Attribute |")[2].partition("\n\n")[0]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    documented = set(re.findall(r"^        (\w+):", ServiceError.__doc__ or "", re.MULTILINE))
    assert named == documented


def test_the_table_of_the_service_config_is_that_of_the_file() -> None:
    table = page().partition("| Methods | Deadline")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines()[2:]]
    described: dict[str, tuple[str | None, bool]] = {}
    for methods, deadline, retried in rows:
        seconds = None if "none" in deadline else deadline.strip().replace(" ", "")
        for word in re.findall(r"[A-Z]\w+", methods):
            meant = [word] if word in METHODS else [name for name in METHODS if name.startswith(word)]
            described |= dict.fromkeys(meant, (seconds, "yes" in retried))
    assert described == {name: (entry.get("timeout"), "retryPolicy" in entry) for name, entry in ENTRIES.items()}
