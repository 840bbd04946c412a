"""The documents, executed: every call that is shown is sent to a real server, and every answer must be the one shown.

Only the values of times and of resume tokens may differ, and those of times only as a whole: where two shown times are
equal, so are the real ones, and where they differ, so do the real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.docs.documents import SERVICE, Example, examples
from tests.support.client import PATIENCE, Client
from tests.support.refusals import refusal_of

LISTEN = "127.0.0.1:50051"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
OPAQUE = ("resume_token",)
# Importing it tells protobuf's JSON mapping what may be packed into a status.
assert error_details_pb2.ErrorInfo


def request_of(example: Example) -> Any:
    """The message that grpcurl would send."""
    request: dict[str, Any] = json.loads(example.request)
    if mask := request.get("update_mask"):
        # grpcurl wants the message; the JSON mapping, and so this parser, wants camel-case names in one text.
        request["update_mask"] = ",".join(
            re.sub(r"_(\w)", lambda found: found[1].upper(), path) for path in mask["paths"]
        )
    kind = getattr(pb, SERVICE.methods_by_name[example.method].input_type.name)
    return json_format.ParseDict(request, kind())


def as_json(message: Any) -> Any:
    """A message as grpcurl prints it: defaults left out, 64-bit numbers in quotes, names as in the proto."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


async def outcome_of(client: Client, example: Example) -> Any:
    """What the server says, in the form that `shown_by` gives to what is shown."""
    method, call = SERVICE.methods_by_name[example.method], getattr(client.stub, example.method)
    request = request_of(example)
    try:
        if method.server_streaming and not method.client_streaming:
            return [as_json(answer) async for answer in call(request, timeout=PATIENCE)]
        if method.client_streaming:
            return [as_json(answer) async for answer in call(_once(request), timeout=PATIENCE)]
        return [as_json(await call(request, timeout=PATIENCE))]
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        return {
            "code": refusal.code,
            "message": refusal.message,
            "details": [as_json(detail) for detail in refusal.status.details],
        }


def shown_by(example: Example) -> Any:
    """The answers that are shown, or the code, the message and the details of the error."""
    if not example.shown.startswith("ERROR:"):
        return _documents(example.shown)
    found = re.fullmatch(r"ERROR:\n  Code: (\w+)\n  Message: (.*)\n  Details:\n(.*)", example.shown, re.DOTALL)
    assert found, f"not as grpcurl prints an error: {example.shown}"
    details = re.split(r"^  \d+\)", found[3], flags=re.MULTILINE)[1:]
    code = re.sub(r"(?<!^)([A-Z])", r"_\1", found[1]).upper()
    return {"code": code, "message": found[2], "details": [json.loads(detail) for detail in details]}


def _documents(text: str) -> list[Any]:
    """The JSON documents that stand one after the other in a text."""
    found = []
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


@dataclass
class Times:
    """Which real time stands for which shown one."""

    shown_as: dict[str, str] = field(default_factory=dict)

    def translated(self, real: Any, shown: Any) -> Any:
        """What is real, with times replaced by those that were shown for them; a new one takes the shown one's."""
        if isinstance(real, dict) and isinstance(shown, dict):
            known = {key: self.translated(value, shown.get(key)) for key, value in real.items()}
            return known | {key: shown[key] for key in OPAQUE if known.get(key) and shown.get(key)}
        if isinstance(real, list) and isinstance(shown, list):
            beside = [*shown, *[None] * (len(real) - len(shown))]
            return [self.translated(one, other) for one, other in zip(real, beside, strict=False)]
        if isinstance(real, str) and TIME.fullmatch(real):
            if isinstance(shown, str) and TIME.fullmatch(shown) and shown not in self.shown_as.values():
                self.shown_as.setdefault(real, shown)
            return self.shown_as.get(real, real)
        return real


async def tell(client: Client) -> None:
    """Runs the whole story on an empty database."""
    times = Times()
    for example in examples():
        shown = shown_by(example)
        real = await outcome_of(client, example)
        assert times.translated(real, shown) == shown, f"{example.page}: {example.method} {example.request}"


async def test_every_call_is_answered_as_shown(client: Client) -> None:
    assert len(examples()) > 10
    await tell(client)


def test_a_wrong_answer_would_be_noticed() -> None:
    times = Times()
    first, second = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01.5Z"
    shown = {"create_time": first, "update_time": first, "enroll_time": second}
    assert times.translated({"create_time": "2020-02-02T00:00:00Z"}, shown) == {"create_time": first}
    again = {"create_time": "2020-02-02T00:00:00Z", "update_time": "2020-02-02T00:00:03Z"}
    assert times.translated(again, shown)["update_time"] != first
    assert times.translated({"etag": "2"}, {"etag": "1"}) == {"etag": "2"}


@pytest.mark.parametrize("example", [pytest.param(one, id=f"{n} {one.method}") for n, one in enumerate(examples())])
def test_every_call_is_a_request_of_its_method(example: Example) -> None:
    request_of(example)
    shown = shown_by(example)
    if isinstance(shown, list):
        kind = getattr(pb, SERVICE.methods_by_name[example.method].output_type.name)
        for answer in shown:
            json_format.ParseDict(answer, kind())
    else:
        assert shown["code"] in grpc.StatusCode.__members__
