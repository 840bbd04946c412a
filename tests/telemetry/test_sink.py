"""Whoever reads the log, or does not: nothing that the service does waits for it, and what is lost is counted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from enrollment_service.telemetry.sink import MAX_WAITING_LINES, PIPE_BYTES, LogSink
from tests.support.client import client_of
from tests.support.processes import PROJECT, STARTUP, environment, free_port
from tests.support.refusals import refused

CALLS = 3_000


def dropped_line(count: int) -> bytes:
    return b"dropped %d" % count


class Gate(io.RawIOBase):
    """A file that nobody reads until the gate is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.written = b""

    def write(self, data: object) -> int:
        self.entered.set()
        assert self.opened.wait(10)
        self.written += bytes(data)  # type: ignore[call-overload]
        return len(memoryview(data))  # type: ignore[arg-type]


class Pipe:
    """A pipe with both its ends."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.reader = open(reader, "rb", buffering=0)  # noqa: SIM115 - the fixture closes both
        self.writer = open(writer, "wb", buffering=0)  # noqa: SIM115


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.reader.close()
    made.writer.close()


def test_lines_are_written_in_order_and_none_twice() -> None:
    written = io.BytesIO()
    sink = LogSink(written, dropped_line)
    for index in range(10_000):
        sink.add(b"%d" % index)
    sink.flush()
    assert written.getvalue() == b"".join(b"%d\n" % index for index in range(10_000))
    assert sink.dropped == 0


def test_lines_of_several_threads_are_all_there() -> None:
    written = io.BytesIO()
    sink = LogSink(written, dropped_line)

    def add(name: int) -> None:
        for index in range(1_000):
            sink.add(b"%d-%d" % (name, index), urgent=index % 100 == 0)

    threads = [threading.Thread(target=add, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.flush()
    assert sorted(written.getvalue().split()) == sorted(
        b"%d-%d" % (name, index) for name in range(8) for index in range(1_000)
    )


def test_a_reader_that_hangs_holds_up_nobody_and_is_told_what_it_missed() -> None:
    gate = Gate()
    sink = LogSink(gate, dropped_line)  # type: ignore[arg-type]
    sink.add(b"first", urgent=True)
    assert gate.entered.wait(5)
    began = time.perf_counter()
    for index in range(MAX_WAITING_LINES + 500):
        sink.add(b"%d" % index)
    assert time.perf_counter() - began < 5
    assert sink.dropped == 500

    gate.opened.set()
    sink.flush(timeout=10)
    lines = gate.written.split()
    assert lines[0] == b"first"
    assert b"dropped 500" in gate.written
    assert lines[-1] == b"%d" % (MAX_WAITING_LINES - 1)


def test_a_reader_that_has_gone_is_survived(pipe: Pipe) -> None:
    sink = LogSink(pipe.writer, dropped_line)
    pipe.reader.close()
    for _ in range(3):
        sink.add(b"nobody reads this")
    sink.flush()
    assert sink.dropped == 3


def test_what_goes_into_a_pipe_at_once_is_whole_lines(pipe: Pipe) -> None:
    """So lines of workers that share it never mix: each write is at most what Linux keeps together."""
    sink = LogSink(pipe.writer, dropped_line)
    line = b"x" * 300
    for _ in range(100):
        sink.add(line)
    sink.flush()
    read = pipe.reader.read(65536)
    assert read == (line + b"\n") * 100
    assert sink._max_bytes == PIPE_BYTES


@pytest.fixture
def port() -> int:
    return free_port()


def serve(database_url: str, port: int, stdout: int) -> subprocess.Popen[bytes]:
    variables = {"PROFILE": "dev", "LISTEN": f"127.0.0.1:{port}", "DATABASE_URL": database_url}
    return subprocess.Popen(
        [sys.executable, "-m", "enrollment_service", "serve"],
        cwd=PROJECT,
        env=environment(**variables),
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.long
async def test_a_service_whose_output_nobody_reads_serves_on(database_url: str, port: int, pipe: Pipe) -> None:
    """A pipe takes 64 KB; the lines of these calls are many times as long."""
    server = serve(database_url, port, pipe.writer.fileno())
    try:
        async with client_of(f"127.0.0.1:{port}") as client:
            await client.channel.channel_ready()
            student = (await client.create_student()).student_id
            for _ in range(CALLS):
                await client.call("GetStudent", student_id=student)
            with refused("NOT_FOUND", "STUDENT_NOT_FOUND"):
                await client.call("GetStudent", student_id=student + 1)
    finally:
        server.terminate()
    assert server.wait(STARTUP) == 0


async def test_a_service_whose_output_is_closed_still_answers(database_url: str, port: int, pipe: Pipe) -> None:
    server = serve(database_url, port, pipe.writer.fileno())
    try:
        async with client_of(f"127.0.0.1:{port}") as client:
            await client.channel.channel_ready()
            pipe.writer.close()
            pipe.reader.close()
            for _ in range(3):
                with refused("NOT_FOUND", "STUDENT_NOT_FOUND"):
                    await client.call("GetStudent", student_id=1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.raw("GetStudent", b"\xff")
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (await client.create_student()).student_id == 1
    finally:
        server.terminate()
    assert server.wait(STARTUP) == 0


def test_a_line_that_says_what_was_dropped_is_a_line_like_others() -> None:
    from enrollment_service.telemetry.logs import _dropped_line

    said = json.loads(_dropped_line(7))
    assert (said["event"], said["count"], said["level"]) == ("log lines dropped", 7, "warning")
