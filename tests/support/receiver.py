"""A receiver of spans: a real gRPC server that speaks OTLP, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PATIENCE = 20.0  # seconds


@dataclass(frozen=True)
class Span:
    """One span as it was received."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    failed: bool
    seconds: float


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """The spans, in the order of their arrival."""

    def __init__(self, answers: threading.Event) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.sends = 0
        self.endpoint = ""

    def Export(self, request: Any, _: Any) -> Any:
        """Takes spans, and answers when it is let."""
        self.sends += 1
        self._answers.wait(PATIENCE)
        with self._lock:
            for resource in request.resource_spans:
                self.resources.append(_attributes(resource.resource.attributes))
                self._spans += [_read(span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """All so far."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Span]:
        """Those with a name, of a method or of a batch."""
        return [span for span in self.spans if span.name.rpartition("/")[2] == name]

    async def until(self, name: str, count: int = 1) -> list[Span]:
        """Those with a name, once there are so many."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self.named(name)) < count:  # noqa: ASYNC110 - another thread
                await asyncio.sleep(0.05)
        return found


def _read(span: Any) -> Span:
    return Span(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(link.span_id.hex() for link in span.links),
        _attributes(span.attributes),
        span.status.code == 2,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def receiving(*, answering: bool = True) -> Iterator[Receiver]:
    """A receiver on a free port; one that is not answering takes spans and says nothing."""
    answers = threading.Event()
    if answering:
        answers.set()
    receiver = Receiver(answers)
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        answers.set()
        server.stop(0).wait()
