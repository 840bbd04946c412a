"""The methods of the service as the descriptor has them, and what makes their calls safe to send twice.

Read from the descriptor, so that a method that is added needs nothing here: it reads, or it takes a request_id.
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

    def prepared(self, request: Any) -> Any:
        """The request as it is sent, each time with the same request_id: then a write takes effect once.

        A read, or what changes nothing because it is a dry run, is left as it is.
        """
        if self.reads or getattr(request, "validate_only", False) or request.request_id:
            return request
        sent = type(request)()
        sent.CopyFrom(request)
        sent.request_id = str(uuid.uuid4())
        return sent


def _method_of(descriptor: MethodDescriptor) -> Method:
    return Method(
        name=descriptor.name,
        path=f"/{SERVICE.full_name}/{descriptor.name}",
        request_type=GetMessageClass(descriptor.input_type),
        response_type=GetMessageClass(descriptor.output_type),
        streams_requests=descriptor.client_streaming,
        streams_responses=descriptor.server_streaming,
        reads=descriptor.name.startswith(READS),
    )


METHODS = {descriptor.name: _method_of(descriptor) for descriptor in SERVICE.methods}
