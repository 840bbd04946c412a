"""What a batch loads is as much as it needs, also where others write between its looking and its locking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from enrollment_service.domain.commands import Command, DeleteStudent, Enroll
from enrollment_service.engine.loading import lock_and_load
from enrollment_service.store import seats
from enrollment_service.store.database import Database
from enrollment_service.store.faults import StaleError
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.services import Service

pytestmark = pytest.mark.usefixtures("verified")


@pytest.mark.parametrize("locked_anyway", [True, False])
async def test_an_enrollment_between_looking_and_locking_is_noticed(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, locked_anyway: bool
) -> None:
    """The student to be deleted gets a seat meanwhile, and somebody waits for it: as yet nobody knows who."""
    deleted, waiter, other = await client.students(3)
    (course_id,) = await client.courses(1, capacity=1, waitlist_capacity=9)
    look = seats.load_held

    async def look_and_let_others_write(connection: Any, student_ids: Iterable[int]) -> Any:
        held = await look(connection, student_ids)
        monkeypatch.setattr(seats, "load_held", look)
        for student_id in (deleted, waiter):
            await client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
        return held

    monkeypatch.setattr(seats, "load_held", look_and_let_others_write)
    commands: list[Command[Any]] = [
        DeleteStudent(student_id=deleted, force=True),
        Enroll(student_id=other, course_ids=(course_id,)),
    ]
    held = database.hold()
    with pytest.raises(StaleError):
        async with held.transaction() as connection:
            await lock_and_load(connection, commands[: 1 + locked_anyway], database)
    await held.close()


async def test_a_deleted_student_is_looked_for_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller notices nothing: the batch is run once more, and the waiter gets the seat."""
    client = service.client
    deleted, waiter = await client.students(2)
    (course_id,) = await client.courses(1, capacity=1, waitlist_capacity=9)
    look = seats.load_held
    looks = 0

    async def look_first_at_nothing(connection: Any, student_ids: Iterable[int]) -> Any:
        nonlocal looks
        looks += 1
        return await look(connection, student_ids) if looks > 1 else []

    for student_id in (deleted, waiter):
        await client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
    monkeypatch.setattr(seats, "load_held", look_first_at_nothing)
    await client.call("DeleteStudent", student_id=deleted, force=True)
    assert looks == 4
    assert await client.roster(course_id) == [waiter]
