"""The relay: a NATS JetStream of the test's own gets every event, in order per course, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path

import nats
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.formats.json import JSONFormat
from google.protobuf.json_format import ParseDict
from nats.errors import Error
from nats.js import JetStreamContext

from enrollment_service.client import EnrollmentClient
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.debian import program
from tests.support.examples import Program, Storm, example, running
from tests.support.processes import Processes, lasting_port
from tests.support.services import Service
from tests.support.watching import Key, check_order, events_of, key_of

PATIENCE = 30.0
STREAM, BUCKET = "ENROLLMENT", "enrollment_relay"


class Broker:
    """A NATS server with JetStream, and where it is."""

    def __init__(self, process: Program, address: str) -> None:
        self.process = process
        self.address = address

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[JetStreamContext]:
        """Its streams."""
        async with await nats.connect(self.address, allow_reconnect=False) as connection:
            yield connection.jetstream()

    async def answers(self) -> None:
        """Returns once it does."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError, Error):
                    async with self.connected() as streams:
                        await streams.account_info()
                        return
                await asyncio.sleep(0.05)

    async def relayed(self) -> list[BaseCloudEvent]:
        """All events that it keeps, in its order."""
        found = []
        with contextlib.suppress(nats.js.errors.NotFoundError):
            async with self.connected() as streams:
                state = (await streams.stream_info(STREAM)).state
                for number in range(1, state.last_seq + 1):
                    message = await streams.get_msg(STREAM, number)
                    found.append(JSONFormat().read(None, message.data or b""))
        return found


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker of the test's own; NATS is taken from Debian's package where it is not installed."""
    with started(tmp_path) as started_one:
        await started_one.answers()
        yield started_one


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Broker]:
    """A broker in a folder."""
    home, port = folder / "nats", lasting_port()
    home.mkdir()
    command = [program("nats-server", "nats-server"), "--jetstream", f"--store_dir={home}", "--addr=127.0.0.1"]
    with running(*command, f"--port={port}", folder=home) as process:
        yield Broker(process, f"127.0.0.1:{port}")


def event_of(relayed: BaseCloudEvent) -> pb.EnrollmentEvent:
    """What was relayed, as the feed had it."""
    data = relayed.get_data()
    assert isinstance(data, dict)
    return ParseDict(data, pb.EnrollmentEvent())


async def until_relayed(broker: Broker, wanted: list[pb.EnrollmentEvent]) -> list[pb.EnrollmentEvent]:
    """What the broker has, once it has all that is wanted."""
    missing: set[Key] = set(map(key_of, wanted))
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                events = [event_of(one) for one in await broker.relayed()]
                if not (missing := set(map(key_of, wanted)) - set(map(key_of, events))):
                    return events
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not relayed: {sorted(missing)}") from None


def first_ones(events: list[pb.EnrollmentEvent]) -> list[pb.EnrollmentEvent]:
    """What a consumer counts: events above the last one of their course."""
    last: dict[int, int] = {}
    new = []
    for event in events:
        if event.sequence > last.get(event.course_id, 0):
            last[event.course_id] = event.sequence
            new.append(event)
    return new


async def some_events(client: Client) -> list[pb.EnrollmentEvent]:
    """A little history."""
    (course,) = await client.courses(1, capacity=2, waitlist_capacity=2)
    for student in await client.students(3):
        await client.enroll(student, course, on_full=pb.ON_FULL_WAITLIST)
    return await events_of(client)


async def test_events_are_relayed_as_cloud_events(service: Service, broker: Broker, tmp_path: Path) -> None:
    wanted = await some_events(service.client)
    with running(*example("nats_relay.py"), service.address, broker.address, folder=tmp_path):
        assert await until_relayed(broker, wanted) == wanted
    relayed = await broker.relayed()
    assert [one.get_type() for one in relayed] == ["enrollment.v1.course_created", *["enrollment.v1.enrollment"] * 3]
    last, event = relayed[-1], wanted[-1]
    assert last.get_attributes() == {
        "specversion": "1.0",
        "id": f"{event.course_id}/4",
        "source": "/enrollment.v1.EnrollmentService",
        "type": "enrollment.v1.enrollment",
        "subject": f"courses/{event.course_id}",
        "time": last.get_time(),
        "datacontenttype": "application/json",
        "partitionkey": f"{event.course_id}",
        "sequence": "0000000000000000004",
    }
    assert last.get_time() == event.event_time.ToDatetime(tzinfo=UTC)
    async with broker.connected() as streams:
        message = await streams.get_msg(STREAM, 4)
    assert message.subject == f"enrollment.events.{event.course_id}"
    assert (message.headers or {})["Content-Type"] == "application/cloudevents+json"


@pytest.mark.timeout(120)
async def test_none_is_lost_and_none_passes_another_whatever_is_killed(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    server, client = await processes.start_lasting()
    async with EnrollmentClient(server.address, budget=60) as caller:
        storm = Storm(caller)
        with running(*example("nats_relay.py"), server.address, broker.address, folder=tmp_path) as relay:
            async with storm.raging():
                for _ in range(3):
                    await storm.go_on(40)
                    relay.kill()
                    await storm.go_on(40)
                    relay.start()
                await storm.go_on(40)
                broker.process.kill()
                await storm.go_on(40)
                broker.process.start()
                await storm.go_on(40)
                server.signal(signal.SIGKILL)
                await server.ended()
                other = processes.spawn(port=server.port)
                await other.wait_serving(client)
                await storm.go_on(40)
            wanted = await events_of(client)
            relayed = await until_relayed(broker, wanted)
            assert relay.process.poll() is None, relay.errors
    new = first_ones(relayed)
    check_order(new)
    assert sorted(new, key=key_of) == wanted


async def test_what_was_sent_and_not_noted_comes_again_and_is_dropped(
    service: Service, broker: Broker, tmp_path: Path
) -> None:
    wanted = await some_events(service.client)
    with running(*example("nats_relay.py"), service.address, broker.address, folder=tmp_path) as relay:
        await until_relayed(broker, wanted)
        relay.kill()
        async with broker.connected() as streams:
            await streams.delete_key_value(BUCKET)
        relay.start()
        wanted += await _more(service.client, wanted[0].course_id)
        assert await until_relayed(broker, wanted) == wanted


async def _more(client: Client, course_id: int) -> list[pb.EnrollmentEvent]:
    before = len(await events_of(client))
    (student,) = await client.students(1)
    await client.enroll(student, course_id, on_full=pb.ON_FULL_WAITLIST)
    return (await events_of(client))[before:]
