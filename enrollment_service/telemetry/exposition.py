"""Serves the metrics: GET /metrics over plain HTTP, in threads of its own.

The event loop has no part in it, and nobody waits for it to end: who reads slowly holds up neither calls nor a drain.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

PATH = "/metrics"
# How long a peer may be silent, and how long it may take in all: drop by drop it would keep others from a turn.
PATIENCE_SECONDS = 5.0
MAX_SECONDS = 10.0
# Requests at once; a Prometheus sends one at a time.
MAX_REQUESTS = 8


class AddressError(Exception):
    """Nobody can listen on the address; the text says why."""


@contextmanager
def serving(listen: str, registry: CollectorRegistry) -> Iterator[int]:
    """Serves the metrics of a registry for as long as the block lasts; yields the port.

    Args:
        listen: HOST:PORT, checked already.
        registry: what to serve.

    Raises:
        AddressError: the address is in use, or not of this machine.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        server = (_Server6 if ":" in host else _Server)((host, int(port)), _Handler)
    except OSError as error:
        raise AddressError(f"cannot serve metrics on {listen}: {error.strerror or error}") from error
    server.set_app(_only_metrics(make_wsgi_app(registry)))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingWSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Binds; unlike its parent it asks no name server what this machine is called, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a request in a thread, if not too many are being served."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a request."""
        ending = threading.Timer(MAX_SECONDS, _hang_up, [request])
        ending.daemon = True
        ending.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ending.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: the peer has gone, and standard error is not its log."""


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is Python's
        """Says nothing."""

    def address_string(self) -> str:
        """The peer as it is; its name would have to be asked for."""
        return f"{self.client_address[0]}"


def _only_metrics(metrics: Application) -> Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"The metrics are at /metrics.\n"]
        if environ["REQUEST_METHOD"] != "GET":
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET")])
            return [b"Only GET is answered.\n"]
        try:
            return metrics(environ, start_response)
        except ValueError:  # of a header that the library takes for a version
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [b"The Accept header makes no sense.\n"]

    return application
