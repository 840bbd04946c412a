"""How a refusal is checked: code, reason, domain, metadata and details, as the contract promises them."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

PROTO = Path(__file__).parents[2] / "protos" / "enrollment" / "v1" / "enrollment.proto"
DETAILS_KEY = "grpc-status-details-bin"
MOST_DETAIL_BYTES = 4096

Detail = TypeVar("Detail", bound=Message)


@dataclass
class Refusal:
    """What a caller learned from a refused call; empty until the block around the call has ended."""

    code: str = ""
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    status: status_pb2.Status = field(default_factory=status_pb2.Status)

    def details(self, kind: type[Detail]) -> list[Detail]:
        """The details of one type."""
        found = []
        for packed in self.status.details:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                found.append(detail)
        return found

    @property
    def fields(self) -> list[str]:
        """The fields that google.rpc.BadRequest names, in its order."""
        return [one.field for bad in self.details(error_details_pb2.BadRequest) for one in bad.field_violations]

    @property
    def resources(self) -> list[str]:
        """The names in google.rpc.ResourceInfo, like `students/7`."""
        return [one.resource_name for one in self.details(error_details_pb2.ResourceInfo)]

    @property
    def preconditions(self) -> list[tuple[str, str]]:
        """Type and subject of each violation in google.rpc.PreconditionFailure."""
        failures = self.details(error_details_pb2.PreconditionFailure)
        return [(one.type, one.subject) for failure in failures for one in failure.violations]

    @property
    def retry_delay(self) -> float | None:
        """The seconds in google.rpc.RetryInfo."""
        infos = self.details(error_details_pb2.RetryInfo)
        return infos[0].retry_delay.seconds + infos[0].retry_delay.nanos / 1e9 if infos else None

    def read(self, error: grpc.aio.AioRpcError) -> None:
        """Takes in an error that a call raised."""
        self.code, self.message = error.code().name, error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY and isinstance(value, bytes):
                self.status.MergeFromString(value)
        for info in self.details(error_details_pb2.ErrorInfo):
            self.reason, self.metadata = info.reason, dict(info.metadata)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """What an error that a call raised says."""
    refusal = Refusal()
    refusal.read(error)
    return refusal


async def outcome_of(call: Awaitable[Any]) -> str:
    """OK, or the code and the reason; a call that nobody answered has no reason."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {refusal_of(error).reason}".rstrip()
    return "OK"


@contextmanager
def refused(
    code: str,
    reason: str,
    *,
    metadata: Mapping[str, str] | None = None,
    fields: Sequence[str] | None = None,
    resources: Sequence[str] | None = None,
    preconditions: Sequence[tuple[str, str]] | None = None,
) -> Iterator[Refusal]:
    """The call inside the block must be refused with this code and reason, in the form that the contract promises.

    Whatever is given beside code and reason must be equal to what was answered.
    """
    refusal = Refusal()
    try:
        yield refusal
    except grpc.aio.AioRpcError as error:
        refusal.read(error)
        assert (refusal.code, refusal.reason) == (code, reason), refusal
        check_form(refusal, error)
    else:
        raise AssertionError(f"expected {code} {reason}, but the call was answered")
    assert metadata is None or refusal.metadata == metadata
    assert fields is None or refusal.fields == fields
    assert resources is None or refusal.resources == resources
    assert preconditions is None or refusal.preconditions == preconditions


def check_form(refusal: Refusal, error: grpc.aio.AioRpcError) -> None:
    """What is true of every refusal."""
    (info,) = refusal.details(error_details_pb2.ErrorInfo)
    assert info.domain == "enrollment.v1"
    assert refusal.status.code == error.code().value[0]
    assert refusal.status.message == refusal.message
    assert refusal.message
    assert refusal.message.isascii()
    assert refusal.status.ByteSize() <= MOST_DETAIL_BYTES
    missing = example_keys(refusal.reason) - refusal.metadata.keys()
    if is_by_another_key(refusal):
        missing -= {"student_id", "course_id"}
    if "student_id" in refusal.metadata:
        missing -= {"course_id"}  # the examples are about courses where a reason fits both
    assert not missing, f"the proto promises metadata {missing} for {refusal.reason}: {refusal.metadata}"


def is_by_another_key(refusal: Refusal) -> bool:
    """Whether who or what is missing was asked for by another key than our id: then the field is named."""
    return refusal.code == "NOT_FOUND" and "field" in refusal.metadata


@cache
def _examples() -> dict[str, frozenset[str]]:
    examples = re.findall(r"// Example: ({.*})\n\s*ERROR_REASON_(\w+) =", PROTO.read_text())
    return {reason: frozenset(json.loads(example)) for example, reason in examples}


def example_keys(reason: str) -> frozenset[str]:
    """The metadata keys of the example that the proto gives for a reason."""
    return _examples()[reason]
