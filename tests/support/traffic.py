"""A bit of every kind of traffic, for tests that need a database with a past (the fixture `copy_url`)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client

# In a database that `traffic` has written, ids are these: it makes one after the other.
ANN, BO, CY, DI, EM, FAY = range(1, 7)
ART, BIOLOGY, CHEMISTRY, DANCE = range(1, 5)
NAME, ADDRESS = "Ann Verylongsurname", "private.address"


async def traffic(client: Client) -> None:
    """A bit of everything.

    Afterwards Bo and Cy sit in Art, whose two seats are taken; Di, Em and Ann wait for it, in this order. Everybody
    but Fay sits in Biology, which has no limit. Chemistry has been deleted, and Fay with it. Dance is closed: Bo
    waits for it beside its free seat. Bo and Di have a permit for Biology, Cy has one no more.
    """
    for number in (ANN, BO, CY, DI, EM, FAY):
        await client.create_student(NAME, f"{ADDRESS}{number}@example.org")
    await client.create_course(capacity=2, waitlist_capacity=9)
    await client.create_course()
    await client.create_course()
    await client.create_course(capacity=1, waitlist_capacity=1)
    waiting = {"on_full": pb.ON_FULL_WAITLIST}
    for number in (ANN, BO, CY, DI, EM):
        await client.enroll(number, ART, **waiting, request_id=str(uuid.uuid4()))
    await client.unenroll(ANN, ART)
    await client.enroll(ANN, ART, BIOLOGY, **waiting)
    for number in (BO, CY, DI, EM):
        await client.enroll(number, CHEMISTRY)
        await client.call("SwapEnrollment", student_id=number, from_course_id=CHEMISTRY, to_course_id=BIOLOGY)
    await client.enroll(FAY, BIOLOGY, CHEMISTRY)
    await client.call("DeleteStudent", student_id=FAY, force=True)
    await client.enroll(ANN, CHEMISTRY)
    await client.call("DeleteCourse", course_id=CHEMISTRY, force=True)
    await client.enroll(ANN, DANCE)
    await client.enroll(BO, DANCE, **waiting)
    closed = pb.Course(course_id=DANCE)
    closed.enroll_close_time.CopyFrom(Timestamp(seconds=int((datetime.now(UTC) - timedelta(days=1)).timestamp())))
    await client.call("UpdateCourse", course=closed, update_mask=FieldMask(paths=["enroll_close_time"]))
    await client.unenroll(ANN, DANCE)
    permit = [pb.ERROR_REASON_PERMIT_REQUIRED]
    await client.call("GrantWaivers", course_id=BIOLOGY, student_ids=[BO, CY, DI], reasons=permit)
    await client.call("RevokeWaivers", course_id=BIOLOGY, student_ids=[CY])
