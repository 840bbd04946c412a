"""What the command `call` does: a request from JSON, the call, the answer or the error as JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import click
from google.protobuf import json_format
from google.rpc import error_details_pb2

from enrollment_service.client import EnrollmentClient, Refused, ServiceError
from enrollment_service.client.methods import METHODS, SERVICE, Method

REFUSED = 1
UNKNOWN = 3


def run(name: str, text: str, address: str, budget: float) -> int:
    """Calls a method and prints its answer, or the error on standard error; returns the exit status.

    Args:
        name: the method, with or without the service before it.
        text: the request in JSON; `-` for what comes on standard input.
        address: host and port of the server.
        budget: how long the call may take with all its retries, in seconds.

    Raises:
        click.UsageError: there is no such method, or the text is no request of it.
    """
    method = METHODS.get(name.rpartition("/")[2])
    if method is None:
        raise click.UsageError(f"{SERVICE.full_name} has no method {name}. It has: {', '.join(METHODS)}.")
    lines = sys.stdin if text == "-" else text.splitlines()
    try:
        asyncio.run(_call(method, lines, _reachable(address), budget))
    except json_format.ParseError as error:
        raise click.UsageError(f"not a {method.request_type.DESCRIPTOR.name} in JSON: {error}") from error
    except ServiceError as error:
        click.echo(json.dumps(shown_error(error), indent=2), err=True)
        return REFUSED if isinstance(error, Refused) else UNKNOWN
    return 0


async def _call(method: Method, lines: Iterable[str], address: str, budget: float) -> None:
    async with EnrollmentClient(address, timeout=budget, budget=budget, wait_for_ready=False) as client:
        if method.streams_responses:
            async for answer in _stream(client, method, lines):
                click.echo(json.dumps(shown(answer)))
        else:
            answer = await client.call(method.name, request_of(method, "\n".join(lines)))
            click.echo(json.dumps(shown(answer), indent=2))


def _stream(client: EnrollmentClient, method: Method, lines: Iterable[str]) -> AsyncIterator[Any]:
    if method.streams_requests:
        return client.chunks(method.name, _requests_of(method, lines))
    return client.watch(method.name, request_of(method, "\n".join(lines)))


def _requests_of(method: Method, lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            yield request_of(method, line)


def request_of(method: Method, text: str) -> Any:
    """The request that a JSON text says. A field mask may be written as grpcurl wants it, too.

    Raises:
        json_format.ParseError: it is no JSON, or no request of this method.
    """
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise json_format.ParseError(str(error)) from error
    if not isinstance(parsed, dict):
        raise json_format.ParseError("a request is an object")
    mask = parsed.get("update_mask")
    if isinstance(mask, dict):
        parsed["update_mask"] = ",".join(_camel(f"{path}") for path in mask.get("paths", []))
    elif isinstance(mask, str):
        parsed["update_mask"] = _camel(mask)
    return json_format.ParseDict(parsed, method.request_type())


def _camel(names: str) -> str:
    """`waitlist_capacity` as the JSON mapping of field masks has it."""
    first, *others = names.split("_")
    return first + "".join(other[:1].upper() + other[1:] for other in others)


def shown(message: Any) -> dict[str, Any]:
    """A message in JSON, with the names of the proto; fields with default values are left out."""
    made: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return made


def shown_error(error: ServiceError) -> dict[str, Any]:
    """An error in JSON: code, message, every detail, and the request_id to try again with."""
    made: dict[str, Any] = {"code": error.code.name, "message": error.message}
    if error.request_id:
        made["request_id"] = error.request_id
    if error.details:
        made["details"] = [_shown_detail(detail) for detail in error.details]
    return made


def _shown_detail(detail: Any) -> dict[str, Any]:
    if detail.DESCRIPTOR.file is error_details_pb2.DESCRIPTOR:
        return {"@type": f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", **shown(detail)}
    return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}


def _reachable(address: str) -> str:
    """Where a server that listens on all addresses is reached from here."""
    host, _, port = address.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"{local}:{port}" if local else address
