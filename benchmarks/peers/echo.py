"""The floor: a bare grpc.aio server that sends each request's bytes back. Nothing in Python gRPC is faster."""

from __future__ import annotations

import sys

import grpc
import uvloop


async def echo(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Answer with what came."""
    return request


class EveryMethod(grpc.GenericRpcHandler):
    """Routes every method to `echo`, without a serializer, so that no message class is involved."""

    _handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Every method is the same."""
        return self._handler


async def serve(address: str) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server(handlers=(EveryMethod(),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
