"""Calls of any method by its name, with a deadline and a request_id, retried where that is safe."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Self

import grpc

from enrollment_service.client.channel import opened
from enrollment_service.client.chunks import Chunks, ChunkStream
from enrollment_service.client.errors import OutcomeUnknown, ServiceError, translated
from enrollment_service.client.methods import METHODS, Method
from enrollment_service.client.retries import Attempts, Pauses


class Caller:
    """What `EnrollmentClient` builds on; its arguments are explained there."""

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 5.0,
        budget: float = 30.0,
        metadata: Sequence[tuple[str, str]] = (),
        token: str | Callable[[], str] | None = None,
        wait_for_ready: bool = True,
        options: Iterable[tuple[str, Any]] = (),
        pauses: Pauses | None = None,
    ) -> None:
        self._owns_channel = isinstance(target, str)
        self._channel = opened(target, credentials, options) if isinstance(target, str) else target
        self._stubs: dict[str, Any] = {}
        self._timeout = timeout
        self._budget = budget
        self._metadata = tuple(metadata)
        self._token = token
        self._wait_for_ready = wait_for_ready
        self._pauses = pauses or Pauses()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connections. Calls under way raise Closed."""
        if self._owns_channel:
            await self._channel.close()

    def within(
        self, *, timeout: float | None = None, budget: float | None = None, wait_for_ready: bool | None = None
    ) -> Self:
        """The same client on the same channel with other limits, in seconds; close the one it came from."""
        other = copy.copy(self)
        other._owns_channel = False
        other._timeout = self._timeout if timeout is None else timeout
        other._budget = self._budget if budget is None else budget
        other._wait_for_ready = self._wait_for_ready if wait_for_ready is None else wait_for_ready
        return other

    async def call(self, method: str, request: Any) -> Any:
        """The response of a method that answers once."""
        sent = METHODS[method].prepared(request)
        attempts = Attempts(self._pauses, self._budget)
        attempts.start()
        while True:
            try:
                return await self._attempt(METHODS[method], sent, min(self._timeout, attempts.remaining))
            except ServiceError as error:
                error.request_id = getattr(sent, "request_id", "")
                await attempts.pause_after(error)

    async def pages(self, method: str, request: Any) -> AsyncIterator[Any]:
        """The responses of a List method, page by page, from the request's page_token on."""
        asked = type(request)()
        asked.CopyFrom(request)
        while True:
            page = await self.call(method, asked)
            yield page
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

    def chunks(self, method: str, chunks: Chunks, *, answer_timeout: float = 60.0) -> AsyncGenerator[Any, None]:
        """The answers of an Import method, one per chunk; `EnrollmentClient.import_enrollments` explains it."""
        stub, attempts = self._stub(METHODS[method]), Attempts(self._pauses, self._budget)
        return ChunkStream(lambda: stub(metadata=self._sent_metadata()), chunks, attempts, answer_timeout).answers()

    async def watch(self, method: str, request: Any, *, silence_timeout: float = 60.0) -> AsyncGenerator[Any, None]:
        """The messages of a Watch method; a stream that breaks or falls silent is resumed after the last of them."""
        asked = type(request)()
        asked.CopyFrom(request)
        attempts = Attempts(self._pauses, self._budget)
        while True:
            call, heard = self._stub(METHODS[method])(asked, metadata=self._sent_metadata()), False
            try:
                while (message := await _next_message(call, silence_timeout)) is not grpc.aio.EOF:
                    asked.resume_token = message.resume_token or asked.resume_token
                    heard = True
                    attempts.progress()
                    yield message
                return
            except ServiceError as error:
                # A stream that was let in outlives its token; there is a new one to go on with.
                expired = heard and callable(self._token) and error.code is grpc.StatusCode.UNAUTHENTICATED
                if not expired:
                    await attempts.pause_after(error)
            finally:
                call.cancel()

    async def _attempt(self, method: Method, request: Any, deadline: float) -> Any:
        with translated():
            return await self._stub(method)(
                request, timeout=deadline, metadata=self._sent_metadata(), wait_for_ready=self._wait_for_ready
            )

    def _sent_metadata(self) -> tuple[tuple[str, str], ...]:
        """That of one attempt: a token may have been renewed since the last one."""
        if self._token is None:
            return self._metadata
        token = self._token() if callable(self._token) else self._token
        return (*self._metadata, ("authorization", f"Bearer {token}"))

    def _stub(self, method: Method) -> Any:
        if method.name not in self._stubs:
            kind = "_".join(
                "stream" if streams else "unary" for streams in (method.streams_requests, method.streams_responses)
            )
            self._stubs[method.name] = getattr(self._channel, kind)(
                method.path,
                request_serializer=method.request_type.SerializeToString,
                response_deserializer=method.response_type.FromString,
            )
        return self._stubs[method.name]


async def _next_message(call: Any, silence_timeout: float) -> Any:
    """The next message of a stream, or EOF; a stream with heartbeats that brings none has been forgotten somewhere."""
    try:
        async with asyncio.timeout(silence_timeout):
            with translated():
                return await call.read()
    except TimeoutError:
        silence = "The stream brought nothing, no heartbeat either."
        raise OutcomeUnknown(grpc.StatusCode.DEADLINE_EXCEEDED, silence) from None
