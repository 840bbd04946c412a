"""Relays the feed to NATS JetStream as CloudEvents 1.0: at least once, and in order per course.

    python examples/nats_relay.py 127.0.0.1:50051 127.0.0.1:4222

An event of course 12 goes to the subject `enrollment.events.12`; its id is `12/<sequence>`. After a kill the relay
sends again what it had not noted as sent. JetStream drops copies that come within two minutes; so that later ones do no
harm, consumers skip an event whose sequence is not above the last one of its course.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import aclosing
from datetime import UTC

import nats
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf.json_format import MessageToDict
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError

from enrollment_service.client import EnrollmentClient, OutcomeUnknown
from enrollment_service.v1 import enrollment_pb2 as pb

STREAM, SUBJECT = "ENROLLMENT", "enrollment.events"
# Where the relay notes how far it is: in the broker, so that it has no other place to lose.
BUCKET, KEY = "enrollment_relay", "resume_token"


def cloud_event(event: pb.EnrollmentEvent) -> bytes:
    """An event in the structured mode of CloudEvents: JSON."""
    kind = pb.EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower()
    attributes = {
        "id": f"{event.course_id}/{event.sequence}",
        "source": "/enrollment.v1.EnrollmentService",
        "type": f"enrollment.v1.{kind}",
        "time": event.event_time.ToDatetime(tzinfo=UTC),
        "subject": f"courses/{event.course_id}",
        "datacontenttype": "application/json",
        "partitionkey": f"{event.course_id}",
        "sequence": f"{event.sequence:019}",  # as the extension has it: texts in the order of the numbers
    }
    return JSONFormat().write(CloudEvent(attributes, MessageToDict(event, preserving_proto_field_name=True)))


async def publish(stream: JetStreamContext, events: Iterable[pb.EnrollmentEvent]) -> None:
    """Publishes events of one course, each once the one before it is stored: none passes another."""
    for event in events:
        headers = {"Nats-Msg-Id": f"{event.course_id}/{event.sequence}", "Content-Type": JSONFormat.CONTENT_TYPE}
        await stream.publish(f"{SUBJECT}.{event.course_id}", cloud_event(event), headers=headers)


async def relay(client: EnrollmentClient, broker: str) -> None:
    """Relays until something breaks."""
    async with await nats.connect(broker, allow_reconnect=False) as connection:
        stream = connection.jetstream()
        await stream.add_stream(name=STREAM, subjects=[f"{SUBJECT}.*"])
        notes = await stream.create_key_value(bucket=BUCKET)
        try:
            noted = await notes.get(KEY)
            token, revision = (noted.value or b"").decode(), noted.revision
        except KeyNotFoundError:
            token, revision = "", 0
        async with aclosing(client.watch_enrollment_events(resume_token=token)) as feed:
            async for message in feed:
                courses: defaultdict[int, list[pb.EnrollmentEvent]] = defaultdict(list)
                for event in message.events:
                    courses[event.course_id].append(event)
                async with asyncio.TaskGroup() as publishing:
                    for events in courses.values():
                        publishing.create_task(publish(stream, events))
                # Fails if another relay has noted something meanwhile; then go on from there.
                revision = await notes.update(KEY, message.resume_token.encode(), last=revision)


async def main(address: str, broker: str) -> None:
    """Relays for ever."""
    async with EnrollmentClient(address) as client:
        while True:
            try:
                await relay(client, broker)
            except* (OutcomeUnknown, OSError, nats.errors.Error) as errors:
                print(*map(repr, errors.exceptions), sep="\n", file=sys.stderr)
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
