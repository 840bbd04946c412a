"""Traces: whose call this is (W3C `traceparent`), a span for each call and each batch, and where they are sent.

The trace id that a caller sends is always known, and goes into the log. Spans are made only inside `exporting`: nothing
of OpenTelemetry is imported before, and without the extra `tracing` it need not be installed.

Spans name methods, codes, reasons and lanes. Never an id, and nothing that callers choose but the trace they belong to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

EXTRA = "tracing"
SERVICE = "enrollment-service"
# How long the last spans may take to be sent when the process ends. Who receives them holds up nobody.
LAST_SECONDS = 1.0
# A send that takes longer is given up, with the spans in it.
SEND_SECONDS = 5.0

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
# Those that say that the server is to blame; the others are answers like OK. From OpenTelemetry's conventions for RPC.
_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class NotInstalledError(Exception):
    """Spans are to be sent, but what sends them is not installed. The text says what to do."""


def trace_id_of(metadata: Metadata) -> str:
    """The trace that a caller says its call belongs to; empty without a valid `traceparent`."""
    found = ""
    for key, value in metadata:
        if key == "traceparent":
            match = _TRACEPARENT.fullmatch(value) if isinstance(value, str) and not found else None
            # Version 00 ends there; later ones may say more.
            if match is None or (match[1] == "00" and match[4]):
                return ""
            found = match[2]
    return found


class Trace:
    """What is known of the trace of a call."""

    __slots__ = ("trace_id",)

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id

    def end(self, code: str, reason: str) -> None:
        """Tells what the call was answered."""


_NONE = Trace("")
_NOBODY = nullcontext()


def begin(service: str, method: str, metadata: Metadata) -> Trace:
    """Begins the trace of a call, in the task that serves it; where spans are made, one for the call."""
    trace_id = trace_id_of(metadata)
    if _spans is not None:
        return _spans.begin(f"{service}/{method}", metadata if trace_id else ())
    return Trace(trace_id) if trace_id else _NONE


def waiting(item: object) -> AbstractContextManager[None]:
    """Something that waits for its batch inside the block, on behalf of the call that this task serves."""
    if _spans is None or (span := _current.get()) is None:
        return _NOBODY
    return _spans.keep(item, span)


@contextmanager
def batch(lane: str) -> Iterator[Callable[[Iterable[object]], None]]:
    """A batch that is served inside the block; yields what is to be told of the items in it."""
    if _spans is None:
        yield _forget
        return
    links: list[SpanContext] = []
    spans, began = _spans, time.time_ns()
    try:
        yield lambda items: links.extend(spans.of(items))
    finally:
        spans.end_batch(lane, links, began)


def _forget(_: Iterable[object]) -> None:
    """Nobody wants to know."""


def require_installed() -> None:
    """Returns if spans can be sent.

    Raises:
        NotInstalledError: they cannot.
    """
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.grpc") and find_spec("opentelemetry.sdk")
    except ModuleNotFoundError:
        found = None
    if not found:
        raise NotInstalledError(
            f"ENROLLMENT_TRACES_ENDPOINT needs what is not installed: install the extra `{EXTRA}`, that is "
            f"`pip install 'enrollment-service[{EXTRA}]'` or requirements-{EXTRA}.lock, or unset it"
        )


@contextmanager
def exporting(endpoint: str) -> Iterator[None]:
    """Inside the block spans are made and sent to an OTLP receiver; a send that fails loses them, and nothing else.

    OpenTelemetry's own variables, such as OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS,
    are read by OpenTelemetry itself.

    Raises:
        NotInstalledError: the extra is missing.
    """
    global _spans  # noqa: PLW0603 - one receiver per process
    require_installed()
    spans = _Spans(endpoint)
    _spans = spans
    try:
        yield
    finally:
        _spans = None
        spans.close()


class _CallSpan(Trace):
    """A call that has a span."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        super().__init__(f"{span.get_span_context().trace_id:032x}")
        self._span = span

    def end(self, code: str, reason: str) -> None:
        if self._span.is_recording():
            self._span.set_attribute("rpc.response.status_code", code)
            if reason:
                self._span.set_attribute("enrollment.reason", reason)
            if code in _ERRORS:
                self._span.set_attribute("error.type", code)
                self._span.set_status(_error_status())
        self._span.end()


class _Providers(NamedTuple):
    """Of calls, which are sampled, and of batches, which are there if one of their calls is."""

    calls: Any
    batches: Any


class _Spans:
    """Makes spans, and hands them to the thread that sends them."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from enrollment_service import __version__

        resource = Resource.create({"service.name": SERVICE, "service.version": __version__})
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS)
        self._processor = BatchSpanProcessor(self._exporter)
        limits = SpanLimits(max_links=10_000)
        providers = _Providers(
            TracerProvider(resource=resource, shutdown_on_exit=False),
            TracerProvider(resource=resource, shutdown_on_exit=False, sampler=ALWAYS_ON, span_limits=limits),
        )
        for provider in providers:
            provider.add_span_processor(self._processor)
        self._calls: Tracer = providers.calls.get_tracer("enrollment_service", __version__)
        self._batches: Tracer = providers.batches.get_tracer("enrollment_service", __version__)
        # What waits for its batch, by its identity, and for which call.
        self._waiting: dict[int, SpanContext] = {}

    def begin(self, method: str, metadata: Metadata) -> Trace:
        """Begins the span of a call, as a child of the caller's where there is one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        parent = TraceContextTextMapPropagator().extract(carrier, Context())
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        span = self._calls.start_span(method, parent, SpanKind.SERVER, attributes)
        _current.set(span.get_span_context())
        return _CallSpan(span)

    @contextmanager
    def keep(self, item: object, span: SpanContext) -> Iterator[None]:
        """Remembers inside the block on behalf of which call something waits."""
        self._waiting[id(item)] = span
        try:
            yield
        finally:
            self._waiting.pop(id(item), None)

    def of(self, items: Iterable[object]) -> Iterator[SpanContext]:
        """The spans of the calls on whose behalf items wait, as far as they are sampled."""
        for item in items:
            span = self._waiting.get(id(item))
            if span is not None and span.trace_flags.sampled:
                yield span

    def end_batch(self, lane: str, calls: list[SpanContext], began_ns: int) -> None:
        """Makes the span of a batch that is over, if any of its calls has one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        if calls:
            attributes: dict[str, str | int] = {"enrollment.lane": lane, "enrollment.batch.size": len(calls)}
            links = [Link(call) for call in calls]
            name = f"batch {lane}"
            self._batches.start_span(name, Context(), attributes=attributes, links=links, start_time=began_ns).end()

    def close(self) -> None:
        """Sends what is left, for a moment; what cannot be sent by then is lost."""
        from threading import Thread

        flushing = Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        flushing.start()
        flushing.join(LAST_SECONDS)
        if flushing.is_alive():
            self._exporter.shutdown(timeout_millis=0)


def _error_status() -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR)


_spans: _Spans | None = None
# The span of the call that a task serves.
_current: ContextVar[SpanContext | None] = ContextVar("current span", default=None)
