"""Server reflection as a client without the proto uses it."""

from __future__ import annotations

from typing import Any

from grpc_reflection.v1alpha import reflection_pb2

from tests.support.client import PATIENCE, Client

REFLECTIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


async def ask(client: Client, reflection: str, **question: Any) -> Any:
    """The answer of a reflection service to one question."""
    call: Any = client.channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [reflection_pb2.ServerReflectionRequest(**question)]
    return next(iter([answer async for answer in call(requests, timeout=PATIENCE)]))
