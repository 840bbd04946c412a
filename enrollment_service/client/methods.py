"""The methods of the service as the descriptor has them, and which of their calls may be sent twice.

Read from the descriptor, so that a method that is added, or that gains a request_id, needs nothing here.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from enrollment_service.v1 import enrollment_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
READS = ("Get", "List", "Explain", "Watch")


@dataclass(frozen=True)
class Method:
    """One method."""

    name: str
    path: str
    request_type: type[Message]
    response_type: type[Message]
    streams_requests: bool
    streams_responses: bool
    reads: bool
    """It changes nothing."""
    takes_request_id: bool

    def prepared(self, request: Any) -> tuple[Any, bool]:
        """The request as it is sent, each time with the same request_id, and whether it may be sent again.

        A write is sent again only with a request_id: then it takes effect once. A write that has none, or that
        changes nothing because it is a dry run, is left as it is.
        """
        if self.reads or getattr(request, "validate_only", False):
            return request, True
        if not self.takes_request_id:
            return request, False
        if request.request_id:
            return request, True
        sent = type(request)()
        sent.CopyFrom(request)
        sent.request_id = str(uuid.uuid4())
        return sent, True


def _method_of(descriptor: MethodDescriptor) -> Method:
    return Method(
        name=descriptor.name,
        path=f"/{SERVICE.full_name}/{descriptor.name}",
        request_type=GetMessageClass(descriptor.input_type),
        response_type=GetMessageClass(descriptor.output_type),
        streams_requests=descriptor.client_streaming,
        streams_responses=descriptor.server_streaming,
        reads=descriptor.name.startswith(READS),
        takes_request_id="request_id" in descriptor.input_type.fields_by_name,
    )


METHODS = {descriptor.name: _method_of(descriptor) for descriptor in SERVICE.methods}
