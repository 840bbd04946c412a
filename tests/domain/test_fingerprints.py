"""Fingerprints outlive a deploy: golden bytes of each method that takes a request_id. Add to them, never change any."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

import pytest

from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import Command, Enroll, Import, Reconcile, Swap, Unenroll
from enrollment_service.domain.fingerprints import encoded, fingerprint

GOLDEN: list[tuple[Command[Any], str, str]] = [
    (
        Enroll(student_id=7, course_ids=(12, 9)),
        '["EnrollStudent",{"course_ids":[12,9],"student_id":7}]',
        "0190772d348c4c42e2baabcadf7520c4e6953b8f8af4837968ebfb7b4c635884fe",
    ),
    (
        Enroll(student_id=7, course_ids=(12,), waitlist=True, reason="override"),
        '["EnrollStudent",{"course_ids":[12],"reason":"override","student_id":7,"waitlist":true}]',
        "0163ca3d0da2e0e4f18b0ee9771a92a860264e95867168e6be0b2bd4481bb50d05",
    ),
    (
        Unenroll(student_id=7, course_id=12),
        '["UnenrollStudent",{"course_id":12,"student_id":7}]',
        "01f6711c25e40348dad20967c324e9ce8e55d0bd68f0989f67b7bdb270d46b59f2",
    ),
    (
        Unenroll(student_id=7, course_id=12, allow_missing=True, etag="3", reason="moved"),
        '["UnenrollStudent",{"allow_missing":true,"course_id":12,"etag":"3","reason":"moved","student_id":7}]',
        "0159bcb9900baef6615b6dd9d16a5883e707c91e0ca6f35a8c4eb17d24ac6278f0",
    ),
    (
        Swap(student_id=7, from_course_id=12, to_course_id=9, reason="x"),
        '["SwapEnrollment",{"from_course_id":12,"reason":"x","student_id":7,"to_course_id":9}]',
        "013cd4ead2c73f65a0b15327f6784a37d51f2684db576f67492f07e5d0b9408fcf",
    ),
    (
        Import(student_ids=(1, 2), course_ids=(3, 3), waitlist=True),
        '["ImportEnrollments",{"course_ids":[3,3],"student_ids":[1,2],"waitlist":true}]',
        "01830537ab3be690f9370b662f7197d85f6713895c0f2e757a98689414a9ff2c25",
    ),
    (
        Reconcile(course_id=12, student_ids=(1, 2), max_removals=5),
        '["ReconcileRoster",{"course_id":12,"max_removals":5,"student_ids":[1,2]}]',
        "01efdbccbb079bf90bb0aa8a54b12d6b7ea42577672e79b743707d6c6950d8fc8b",
    ),
    (
        Reconcile(course_id=12, student_ids=()),
        '["ReconcileRoster",{"course_id":12}]',
        "011c62ed468eecdaf5cee55102e2e003f05ca5879978ebba06ea3c93fbb436d00d",
    ),
]
ids = [f"{type(command).__name__}-{index}" for index, (command, *_) in enumerate(GOLDEN)]


@pytest.mark.parametrize(("command", "payload", "digest"), GOLDEN, ids=ids)
def test_golden_bytes(command: Command[Any], payload: str, digest: str) -> None:
    assert encoded(command).decode() == payload
    assert fingerprint(command).hex() == digest


def test_golden_bytes_are_all_different() -> None:
    assert len({fingerprint(command) for command, *_ in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(("command", "payload", "digest"), GOLDEN, ids=ids)
def test_who_asks_and_under_which_id_is_no_part_of_it(command: Command[Any], payload: str, digest: str) -> None:
    command.request_id = UUID(int=1)
    command.caller = Caller("registrar")
    assert encoded(command).decode() == payload
    assert digest


def test_every_field_that_a_payload_can_differ_in_tells() -> None:
    """A field that is added to a command and forgotten in its encoding would let two payloads pass for one."""
    apart = {"request_id", "caller", "validate_only"}
    # Requests of these methods have no reason of their own.
    reasonless = {Import, Reconcile}
    for kind in {type(command) for command, *_ in GOLDEN}:
        shown = {name for command, payload, _ in GOLDEN if type(command) is kind for name in payload.split('"')[1::2]}
        names = {field.name for field in fields(kind)} - apart - ({"reason"} if kind in reasonless else set())
        assert names <= shown, kind
