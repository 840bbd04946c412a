"""Fingerprints outlive a deploy: golden bytes of each method that takes a request_id. Add to them, never change any."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import (
    Command,
    CreateCourse,
    CreateStudent,
    DeleteCourse,
    DeleteStudent,
    Enroll,
    GrantWaivers,
    Import,
    ImportCourses,
    ImportStudents,
    Reconcile,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.fingerprints import encoded, fingerprint
from enrollment_service.domain.records import NewCourse, NewStudent
from enrollment_service.domain.rules import _RULES

OPENS, CLOSES = (datetime(2026, 9, 1, hour, tzinfo=UTC) for hour in (8, 9))

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
        Enroll(student_id=7, course_ids=(12,), drop_course_ids=(9, 3)),
        '["EnrollStudent",{"course_ids":[12],"drop_course_ids":[9,3],"student_id":7}]',
        "0152e5d539131d92a4fe877e65e7e2fe305ce682a4110abec0ae982c640ba3cf7e",
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
        Swap(student_id=7, from_course_id=12, to_course_id=9, waitlist=True),
        '["SwapEnrollment",{"from_course_id":12,"student_id":7,"to_course_id":9,"waitlist":true}]',
        "0165e8e2b84abd59aa507225b00eb6ef0305e8b927b94ad7305a9e3f7839567d55",
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
        Import(student_external_ids=("S-1", "S-2"), course_external_ids=("C-1", "C-1")),
        '["ImportEnrollments",{"course_external_ids":["C-1","C-1"],"student_external_ids":["S-1","S-2"]}]',
        "011aff034e5505e71789da4d96cccc8c0c2ae4045ea95e796f56d88f84457da4bd",
    ),
    (
        Reconcile(course_external_id="C-1", student_external_ids=("S-1",)),
        '["ReconcileRoster",{"course_external_id":"C-1","student_external_ids":["S-1"]}]',
        "015b4677165d7918f8e8cccad2b71db954c3cba3e6246d744c789af1e793c74558",
    ),
    (
        ImportStudents(students=(NewStudent("Ann", "ann@x.org", "S-1"), None), fields=("full_name",)),
        '["ImportStudents",{"fields":["full_name"],"students":[{"email":"ann@x.org","external_id":"S-1","full_name":"Ann"},null]}]',
        "01ab42e8158542b5841634083b239c94928be33556b2f537dd5f617330e85aa851",
    ),
    (
        ImportCourses(
            courses=(NewCourse("ART-1", "Drawing", capacity=5, enroll_open_time=OPENS, external_id="C-1"),),
            fields=("code",),
        ),
        '["ImportCourses",{"courses":[{"capacity":5,"code":"ART-1","enroll_open_time":"2026-09-01T08:00:00+00:00","external_id":"C-1","title":"Drawing"}],"fields":["code"]}]',
        "01d060f318678a846dfecb1f85198dc3f5833d720199a138ed9978f3d8245d02e5",
    ),
    (
        Reconcile(course_id=12, student_ids=()),
        '["ReconcileRoster",{"course_id":12}]',
        "011c62ed468eecdaf5cee55102e2e003f05ca5879978ebba06ea3c93fbb436d00d",
    ),
    (
        GrantWaivers(
            course_id=12,
            student_ids=(7, 9),
            reasons=(Reason.PERMIT_REQUIRED, Reason.ENROLLMENT_CLOSED),
            expire_time=OPENS,
            reason="x",
        ),
        (
            '["GrantWaivers",{"course_id":12,"expire_time":"2026-09-01T08:00:00+00:00","reason":"x",'
            '"reasons":["PERMIT_REQUIRED","ENROLLMENT_CLOSED"],"student_ids":[7,9]}]'
        ),
        "010ce0e7764253bbb02db6f61420ee0e1dc6f6eaa4d54eef57d0c38e71e9608462",
    ),
    (
        GrantWaivers(course_id=12, student_ids=(7,), reasons=(Reason.PERMIT_REQUIRED,)),
        '["GrantWaivers",{"course_id":12,"reasons":["PERMIT_REQUIRED"],"student_ids":[7]}]',
        "018bc6fc41a4811bbc9511e22cb2aff28b7d001ad2e077c1abcb8d15a0d49256a4",
    ),
    (
        RevokeWaivers(course_id=12, student_ids=(7,), reasons=()),
        '["RevokeWaivers",{"course_id":12,"student_ids":[7]}]',
        "01761a7af83e624680fc92ab4def01475a703180a227e1b2166e6e6982a4def3b9",
    ),
    (
        RevokeWaivers(course_id=12, student_ids=(7,), reasons=(Reason.ENROLLMENT_NOT_OPEN,), reason="x"),
        '["RevokeWaivers",{"course_id":12,"reason":"x","reasons":["ENROLLMENT_NOT_OPEN"],"student_ids":[7]}]',
        "0166dc3ea40bb504bcb1976751c16d7d668657c37b9172c63b952c025b783f3c60",
    ),
    (
        CreateCourse(course=NewCourse("ART-1", "Drawing", permit_required=True)),
        '["CreateCourse",{"course":{"code":"ART-1","permit_required":true,"title":"Drawing"}}]',
        "0145eb807980d614dd00bc4c9a5430957999dbe3db0a93c574d49a6bd5ee93080a",
    ),
    (
        CreateStudent(student=NewStudent("Zoë Lee", "zoe@example.org")),
        '["CreateStudent",{"student":{"email":"zoe@example.org","full_name":"Zo\\u00eb Lee"}}]',
        "01d707c9b1bbaa9782701b78c2270b641ad3276fcaf395e12b4954199242fd0fa2",
    ),
    (
        CreateStudent(student=NewStudent("Zoë Lee", "zoe@example.org", "S-1")),
        '["CreateStudent",{"student":{"email":"zoe@example.org","external_id":"S-1","full_name":"Zo\\u00eb Lee"}}]',
        "0161bf25372d28dd817772cf6da4aeff98f3178dc40ec562cb14f5264209c08792",
    ),
    (
        UpdateStudent(student_id=7, changes={"email": "zoe@example.org", "full_name": "Zoë Li"}, etag="2"),
        (
            '["UpdateStudent",{"changes":{"email":"zoe@example.org","full_name":"Zo\\u00eb Li"},'
            '"etag":"2","student_id":7}]'
        ),
        "01d595af089d15f4bc3e657736b2c33235a1be354810524fea5bcdd8deb32e7bd0",
    ),
    (
        UpdateStudent(student_id=7, changes={"full_name": "Zoë Li"}),
        '["UpdateStudent",{"changes":{"full_name":"Zo\\u00eb Li"},"student_id":7}]',
        "01fbb56c7978856f7fdf556287195f2bf07e882dde10c9d83adc59211bf4121165",
    ),
    (
        DeleteStudent(student_id=7),
        '["DeleteStudent",{"student_id":7}]',
        "0150aa1a4c5d621a04da480266a5d8dc2a21304427ec7417eed4ed5b60867f541e",
    ),
    (
        DeleteStudent(student_id=7, etag="2", force=True),
        '["DeleteStudent",{"etag":"2","force":true,"student_id":7}]',
        "014908df628bf78a8c9926ee545d1faec5d5e7a133b0ba8a27a672f3a88932b6d8",
    ),
    (
        CreateCourse(course=NewCourse("ART-1", "Drawing")),
        '["CreateCourse",{"course":{"code":"ART-1","title":"Drawing"}}]',
        "01d61d34409cc29732be58d1ca2549b44d30e320177d566d8fed3adc3b30c686c1",
    ),
    (
        CreateCourse(course=NewCourse("ART-1", "Drawing", external_id="C-1")),
        '["CreateCourse",{"course":{"code":"ART-1","external_id":"C-1","title":"Drawing"}}]',
        "01fc9fecb3ac414a56c17f4157cc8ae17d89c43abf92a75fd39d824f23d2c1ee33",
    ),
    (
        CreateCourse(course=NewCourse("ART-1", "Drawing", capacity=0)),
        '["CreateCourse",{"course":{"capacity":0,"code":"ART-1","title":"Drawing"}}]',
        "0107396f994a3befafb7fe81213dd8761812628b21c2ba3bc6cbfdf6fdaf7303b2",
    ),
    (
        CreateCourse(course=NewCourse("ART-1", "Drawing", "By hand", 30, 5, OPENS, CLOSES), reason="autumn"),
        (
            '["CreateCourse",{"course":{"capacity":30,"code":"ART-1","description":"By hand",'
            '"enroll_close_time":"2026-09-01T09:00:00+00:00","enroll_open_time":"2026-09-01T08:00:00+00:00",'
            '"title":"Drawing","waitlist_capacity":5},"reason":"autumn"}]'
        ),
        "0133460b5d401174e306b8c98026683264c3537af65ae4c9d1e97fe9177729298b",
    ),
    (
        UpdateCourse(course_id=12, changes={"capacity": None}),
        '["UpdateCourse",{"changes":{"capacity":null},"course_id":12}]',
        "013a1fe4570f54238519822849f102aad004252a2f884543fff15e89851acd377c",
    ),
    (
        UpdateCourse(
            course_id=12,
            changes={"capacity": 0, "enroll_open_time": OPENS, "title": ""},
            etag="3",
            reason="larger_room",
        ),
        (
            '["UpdateCourse",{"changes":{"capacity":0,"enroll_open_time":"2026-09-01T08:00:00+00:00","title":""},'
            '"course_id":12,"etag":"3","reason":"larger_room"}]'
        ),
        "01e1318c51a682407a0389826b4c862f0e40dcaec25ea82942232f4a1b3134ebd2",
    ),
    (
        DeleteCourse(course_id=12),
        '["DeleteCourse",{"course_id":12}]',
        "01d01d4a30bc40e0d83ad3f7a5871abea491077d3057aeb96019fd33efddc479c6",
    ),
    (
        DeleteCourse(course_id=12, etag="3", force=True, reason="cancelled"),
        '["DeleteCourse",{"course_id":12,"etag":"3","force":true,"reason":"cancelled"}]',
        "01ef61f6563ae83d847257064c9222d49f9d078bf3784404a450d18cbcf0bc6c4e",
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
    apart = {"request_id", "caller", "validate_only", "tied"}
    # What external ids stand for is looked up, not sent.
    apart |= {"found", "found_students", "found_courses", "found_course"}
    # Requests of these methods have no reason of their own.
    reasonless = {Import, ImportStudents, ImportCourses, Reconcile, CreateStudent, UpdateStudent, DeleteStudent}
    assert {type(command) for command, *_ in GOLDEN} == _RULES.keys()
    for kind in _RULES:
        shown = {name for command, payload, _ in GOLDEN if type(command) is kind for name in payload.split('"')[1::2]}
        names = {field.name for field in fields(kind)} - apart - ({"reason"} if kind in reasonless else set())
        assert names <= shown, kind
    of_courses = "".join(payload for command, payload, _ in GOLDEN if type(command) is CreateCourse)
    assert {*NewCourse._fields} <= {*of_courses.split('"')}
