"""Bytes that are no messages, and peers that speak no gRPC: refused, and the server goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, SERVICE, Client, client_of
from tests.support.refusals import refused
from tests.support.services import Service

METHODS = pb.DESCRIPTOR.services_by_name["EnrollmentService"].methods
UNARY = [method.name for method in METHODS if not method.server_streaming]
NAME = 0x0A  # the tag of field 1 in Student's place: a nested message


def nested(name: bytes) -> bytes:
    """A CreateStudent request whose student has these bytes for a name."""
    student = bytes([0x12, len(name)]) + name
    return bytes([NAME, len(student)]) + student


@pytest.mark.parametrize("method", UNARY)
async def test_a_truncated_message_is_malformed(client: Client, method: str) -> None:
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST", metadata={"method": method}):
        await client.raw(method, b"\x0a\x7fshort")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a",
        b"\x08" + b"\xff" * 11,  # a varint without end
        b"\x0f\x01",  # a wire type that does not exist
        b"\x00\x01",  # field number 0
        nested(b"\xff\xfe"),
        nested(b"\xc0\x80"),  # an overlong NUL
        nested(b"\xed\xa0\x80"),  # half of a surrogate pair
        nested(b"caf\xe9"),
        b"\x0b" * 5000,
        b"\x0b" * 5000 + b"\x0c" * 5000,
    ],
)
async def test_bytes_that_are_no_message_are_malformed(client: Client, data: bytes) -> None:
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST", metadata={"method": "CreateStudent"}):
        await client.raw("CreateStudent", data)


async def test_a_malformed_chunk_ends_an_import(client: Client) -> None:
    stream: Any = client.channel.stream_stream(f"/{SERVICE}/ImportEnrollments")
    call = stream([b"\xff"], timeout=PATIENCE)
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST", metadata={"method": "ImportEnrollments"}):
        _ = [answer async for answer in call]


async def test_unknown_fields_are_ignored_however_many(client: Client) -> None:
    (student_id,) = await client.students(1)
    request = pb.GetStudentRequest(student_id=student_id).SerializeToString()
    unknown = b"\xc2\x3e\x80\x80\x04" + b"x" * 65536  # field 1000
    answer = pb.GetStudentResponse.FromString(await client.raw("GetStudent", request + unknown * 3))
    assert answer.student.student_id == student_id


async def test_an_empty_message_is_a_message(client: Client) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["student_id"]):
        await client.raw("GetStudent", b"")


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_that_is_too_large_is_refused_also_once_unpacked(
    client: Client, compression: grpc.Compression
) -> None:
    call: Any = client.channel.unary_unary(f"/{SERVICE}/CreateStudent")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(b"\0" * (16 << 20), timeout=PATIENCE, compression=compression)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.create_student()).student_id


@pytest.mark.parametrize(("offered", "method"), [(SERVICE, "DropTables"), ("enrollment.v2.Other", "GetStudent")])
async def test_an_unknown_method_is_unimplemented(client: Client, offered: str, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.raw(method, b"", offered)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_beyond_the_limit_is_refused(service: Service) -> None:
    async with client_of(service.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.stub.GetStudent(
                pb.GetStudentRequest(student_id=1), timeout=PATIENCE, metadata=(("x-large", "x" * 40_000),)
            )
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await client.create_student()).student_id


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /enrollment.v1.EnrollmentService/GetStudent HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,  # how TLS begins
        b"\0" * 1000,
        b"\xff" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"",
    ],
)
async def test_a_peer_that_speaks_no_grpc_is_cut_off(service: Service, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.app.port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
    writer.close()
    assert (await service.client.create_student()).student_id
