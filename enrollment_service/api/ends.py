"""How a stream tells its end in a last message, to callers that cannot see its status: a proxy that turns it into JSON.

Over HTTP/1.1 the status of a stream has no place once the first answer is under way. So the door asks for a message,
in metadata. Nobody else gets one.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import MethodDescriptor
from google.rpc import status_pb2

from enrollment_service.api.status import status_of
from enrollment_service.api.wire import field
from enrollment_service.domain.errors import ServiceError
from enrollment_service.v1 import enrollment_pb2 as pb

# What asks for it, in the metadata of a call.
ASKS = ("enrollment-stream-end", "message")
FIELD = "end"


class EndedError(Exception):
    """A failure of which the caller was told in a message; the cause is what was raised."""

    def __init__(self, failure: ServiceError) -> None:
        super().__init__(failure)
        self.failure = failure


def is_asked_for(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether the caller wants the message."""
    return any((key, value) == ASKS for key, value in metadata)


def end_message(method: MethodDescriptor, failure: ServiceError | None) -> bytes:
    """The last message of a stream of this method, encoded.

    Args:
        method: one whose answers have the field.
        failure: what the stream ends with; None: it ends well.
    """
    status = status_pb2.Status() if failure is None else status_of(failure)[2]
    return field(getattr(pb, method.output_type.name), FIELD, status.SerializeToString())
