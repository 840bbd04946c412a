"""docs/rest.md and the README's curl, executed; the tables are those of the contract and of the door."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from dev.door import DEFAULT_LISTEN, EDGE
from dev.openapi import HTTP_STATUS, bindings
from tests.docs.documents import SERVICE, blocks, read, rows, section
from tests.docs.test_examples import Times
from tests.support.door import Answer, Door, door_to
from tests.support.services import Service

PAGE = "docs/rest.md"


def commands(page: str) -> Iterator[tuple[str, Any, str]]:
    """The path, the body and what is shown of each call with curl."""
    for block in blocks("console", read(page)):
        command, _, shown = block.partition("\n")
        prompt, program, *words = shlex.split(command)
        if program != "curl":
            continue
        body = json.loads(words[words.index("--json") + 1]) if "--json" in words else None
        host, slash, path = words[-1].partition("/")
        assert (prompt, host) == ("$", DEFAULT_LISTEN)
        yield slash + path, body, shown


def parsed(answer: Answer | str) -> Any:
    """What an answer, or a text that shows one, says."""
    text = answer if isinstance(answer, str) else answer.body.decode()
    if text.startswith("data: "):
        return [json.loads(event.removeprefix("data: ")) for event in text.strip().split("\n\n")]
    return json.loads(text)


async def ask(door: Door, path: str, body: Any) -> Answer:
    return await door.ask("GET" if body is None else "POST", path, body)


async def test_the_examples_are_answered_as_shown(service: Service) -> None:
    await service.client.create_student("Ann Lee", "ann@example.org")
    times = Times()
    async with door_to(service.address) as door:
        calls = list(commands(PAGE))
        assert len(calls) > 4
        for path, body, shown in calls:
            answer = await ask(door, path, body)
            assert times.translated(parsed(answer), parsed(shown)) == parsed(shown), path
        ((path, body, _),) = commands("README.md")
        assert (await ask(door, path, body)).status == 409  # the import was quicker


async def test_the_call_in_the_readme_enrolls(service: Service) -> None:
    await service.client.create_student("Ann Lee", "ann@example.org")
    await service.client.create_course("ART-1")
    ((path, body, _),) = commands("README.md")
    async with door_to(service.address) as door:
        answer = (await ask(door, path, body)).json
    assert [one["state"] for one in answer["enrollments"]] == ["ENROLLMENT_STATE_ENROLLED"]


def test_the_paths_are_those_of_the_contract() -> None:
    expected = []
    for method in SERVICE.methods:
        for binding in bindings(method):
            body = {"": "", "*": "all other fields"}.get(binding.body, f"`{binding.body}`")
            body = "an array of requests" if method.client_streaming else body
            expected.append([f"`{binding.verb.upper()} {binding.shown_path}`", f"`{method.name}`", body])
    table = rows(section(PAGE, "Paths"))
    assert sorted(table) == sorted(expected)
    plain = rows(read(PAGE).partition("### The plain student API")[2].partition("\n## ")[0])
    assert sorted(plain) == sorted(row for row in expected if " /v1/" not in row[0])


def test_the_statuses_are_those_of_envoy() -> None:
    table = {int(row[0]): set(re.findall(r"[A-Z_]{4,}", row[1])) for row in rows(section(PAGE, "Errors"))}
    expected: dict[int, set[str]] = {}
    for code, status in HTTP_STATUS.items():
        expected.setdefault(status, set()).add(code)
    del expected[200]
    assert table == expected


def test_the_limits_are_those_of_the_configuration() -> None:
    limits = dict(rows(section(PAGE, "Limits")))
    text = (EDGE / "envoy.yaml").read_text()
    sizes = [int(size) // 1024**2 for size in re.findall(r"max_request_bytes: (\d+)", text)]
    assert limits["Body"] == f"{min(sizes)} MiB; of an import {max(sizes)} MiB"
    manager = yaml.safe_load(text)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    headers = manager["common_http_protocol_options"]["max_headers_count"]
    assert limits["Headers"] == f"{manager['max_request_headers_kb']} KiB, {headers} of them"
    assert limits["Silence on a stream"] == manager["stream_idle_timeout"].replace("s", " s")
    (rest,) = [
        route
        for host in manager["route_config"]["virtual_hosts"]
        for route in host["routes"]
        if route["name"] == "rest"
    ]
    assert limits["Time of a call, streams apart"] == rest["route"]["timeout"].replace("s", " s")
    (connections,) = re.findall(r"max_active_downstream_connections: (\d+)", text)
    assert limits["Connections"] == f"{int(connections):,}"
