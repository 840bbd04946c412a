"""Who may call what, over the wire: every method, every role, and another student's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from enrollment_service.api.access import RULES
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.provider import Provider
from tests.support.refusals import refused

METHODS = pb.DESCRIPTOR.services_by_name["EnrollmentService"].methods
DENIED = ("PERMISSION_DENIED", "PERMISSION_DENIED")
OWN, OTHER = 1, 2
# As the contract has it: 1-contract, "Who may call what". The third: what students may ask of their own rows.
READ = {name for name in (method.name for method in METHODS) if name.startswith(("Get", "List", "Watch", "Explain"))}
STUDENTS_OWN = {
    *("GetStudent", "EnrollStudent", "UnenrollStudent", "SwapEnrollment", "GetEnrollment", "ListStudentCourses"),
    *("WatchEnrollmentEvents", "ExplainEnrollment"),
} & {method.name for method in METHODS if "student_id" in method.input_type.fields_by_name}
OPEN_TO_STUDENTS = {"GetCourse", "ListCourses"}


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@pytest.fixture
async def client(start_service: StartService, provider: Provider) -> Client:
    """A client of a service that takes the provider's tokens; it has none itself."""
    return (await start_service(**provider.settings)).client


async def code_of(client: Client, method: str, **fields: Any) -> str:
    """The status of a call with these of its fields that its request has."""
    (found,) = (one for one in METHODS if one.name == method)
    known = {name: value for name, value in fields.items() if name in found.input_type.fields_by_name}
    request = getattr(pb, found.input_type.name)(**known)
    stub: Any = getattr(client.stub, method)
    try:
        if found.client_streaming:
            _ = [one async for one in stub([request], timeout=PATIENCE, metadata=client.metadata)]
        elif found.server_streaming:
            _ = [one async for one in stub(request, timeout=PATIENCE, metadata=client.metadata)]
        else:
            await stub(request, timeout=PATIENCE, metadata=client.metadata)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            with refused(*DENIED, metadata={}):
                raise
        return error.code().name
    return "OK"


def test_every_method_has_a_rule_and_no_rule_is_without_a_method() -> None:
    assert set(RULES) == {method.name for method in METHODS}


@pytest.mark.parametrize("method", [method.name for method in METHODS])
async def test_every_role_may_call_what_the_contract_says_and_nothing_else(
    client: Client, provider: Provider, method: str
) -> None:
    allowed = {
        "registrar": True,
        "reader": method in READ,
        "student": method in STUDENTS_OWN | OPEN_TO_STUDENTS,
        "dean": False,
        "": False,
    }
    for role, may in allowed.items():
        # Nobody has created a student or a course: who may ask hears so, who may not hears nothing.
        bearer = client.bearing(provider.token(*filter(None, [role]), student_id=OWN))
        code = await code_of(bearer, method, student_id=OWN, course_id=OWN, course_ids=[OWN])
        assert (code != "PERMISSION_DENIED") is may, role
        assert code != "UNAUTHENTICATED"


@pytest.mark.parametrize("method", sorted(STUDENTS_OWN))
@pytest.mark.parametrize("claim", [OWN, f"{OWN}"])
async def test_a_student_may_do_to_its_own_rows_what_it_may_not_to_anothers(
    client: Client, provider: Provider, method: str, claim: object
) -> None:
    registrar = client.bearing(provider.token("registrar"))
    assert await registrar.students(2) == [OWN, OTHER]
    (course_id,) = await registrar.courses(1)
    student = client.bearing(provider.token("student", student_id=claim))
    fields = {"course_id": course_id, "course_ids": [course_id]} if method != "WatchEnrollmentEvents" else {}
    assert await code_of(student, method, student_id=OWN, **fields) != "PERMISSION_DENIED"
    # That of somebody else, of nobody, and what is no id at all: one answer.
    for student_id in (OTHER, 999, 0, -1):
        assert await code_of(student, method, student_id=student_id, **fields) == "PERMISSION_DENIED"


@pytest.mark.parametrize("claim", [None, 0, -1, True, 1.0, "01x", "", [1], {"id": 1}, 2**63, "9" * 5000, "\u0661"])
async def test_a_claim_that_names_no_student_opens_no_rows(client: Client, provider: Provider, claim: object) -> None:
    registrar = client.bearing(provider.token("registrar"))
    assert await registrar.students(1) == [OWN]
    student = client.bearing(provider.token("student", student_id=claim))
    assert await code_of(student, "GetStudent", student_id=OWN) == "PERMISSION_DENIED"
    assert await code_of(student, "GetStudent") == "PERMISSION_DENIED"
    assert await code_of(student, "ListCourses") == "OK"


@pytest.mark.parametrize("roles", ["registrar", {"registrar": True}, 7, [["registrar"]], [None, 7, {}], ["REGISTRAR"]])
async def test_roles_are_a_list_of_names(client: Client, provider: Provider, roles: object) -> None:
    bearer = client.bearing(provider.token(roles=roles))
    assert await code_of(bearer, "ListCourses") == "PERMISSION_DENIED"


async def test_the_claims_may_have_other_names(start_service: StartService, provider: Provider) -> None:
    names = {"jwt_roles_claim": "https://example.org/roles", "jwt_student_claim": "matriculation"}
    service = await start_service(**provider.settings, **names)
    registrar = service.client.bearing(provider.token(**{"https://example.org/roles": ["registrar"]}))
    assert await registrar.students(2) == [OWN, OTHER]
    claims: dict[str, Any] = {"https://example.org/roles": ["student"], "matriculation": "2", "student_id": 1}
    student = service.client.bearing(provider.token(**claims))
    assert (await student.call("GetStudent", student_id=OTHER)).student.student_id == OTHER
    with refused(*DENIED, metadata={}):
        await student.call("GetStudent", student_id=OWN)
    with refused(*DENIED, metadata={}):
        await service.client.bearing(provider.token("registrar")).call("ListCourses")
