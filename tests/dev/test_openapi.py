"""docs/openapi.json: complete, and as Envoy and the service answer. `make check` compares it with the proto."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from dev.openapi import HTTP_STATUS, bindings
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.processes import PROJECT

DOCUMENT: dict[str, Any] = json.loads((PROJECT / "docs" / "openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
OPERATIONS = [(path, verb, one) for path, item in DOCUMENT["paths"].items() for verb, one in item.items()]


def references(value: Any) -> Iterator[str]:
    """What a part of the document refers to."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "$ref":
                yield part
            yield from references(part)


def test_every_way_to_call_every_method_is_in_it() -> None:
    expected = {
        (binding.shown_path, binding.verb, method.name) for method in SERVICE.methods for binding in bindings(method)
    }
    assert {(path, verb, one["summary"]) for path, verb, one in OPERATIONS} == expected
    names = [one["operationId"] for _, _, one in OPERATIONS]
    assert len(names) == len(set(names))


def test_everything_is_explained() -> None:
    for path, verb, one in OPERATIONS:
        assert one["description"], (path, verb)
        for parameter in one.get("parameters", ()):
            assert parameter["description"], (path, verb, parameter["name"])
    for name, schema in SCHEMAS.items():
        assert schema.get("description") or name == "Status", name


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    assert set(references(DOCUMENT)) == {f"#/components/schemas/{name}" for name in SCHEMAS}


def test_the_fields_in_a_path_are_its_parameters() -> None:
    for path, verb, one in OPERATIONS:
        named = {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path)), (path, verb)
        others = {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "query"}
        assert named & others == set(), (path, verb)


def test_numbers_of_64_bits_are_text_in_answers_and_either_in_requests() -> None:
    assert SCHEMAS["Student"]["properties"]["student_id"]["type"] == "string"
    assert SCHEMAS["StudentInput"]["properties"]["student_id"]["type"] == ["integer", "string"]
    assert SCHEMAS["Course"]["properties"]["enrolled_count"]["type"] == "integer"


def test_answers_always_have_what_has_a_default() -> None:
    course = SCHEMAS["Course"]
    assert set(course["properties"]) - set(course["required"]) == {
        "capacity", "enroll_open_time", "enroll_close_time", "create_time", "update_time",
    }  # fmt: skip
    assert "required" not in SCHEMAS["CourseInput"]


def test_streams_are_events_and_arrays() -> None:
    feed = DOCUMENT["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]
    assert list(feed) == ["text/event-stream"]
    imported = DOCUMENT["paths"]["/v1/enrollments:import"]["post"]
    assert imported["requestBody"]["content"]["application/json"]["schema"]["type"] == "array"
    assert imported["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array"


def test_a_body_has_no_field_that_stands_in_the_path() -> None:
    plain, in_path = (DOCUMENT["paths"][path]["post"] for path in ("/enrollments", "/students/{student_id}/courses"))
    assert plain["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/EnrollStudentRequest")
    assert "student_id" in SCHEMAS["EnrollStudentRequest"]["properties"]
    assert "student_id" not in in_path["requestBody"]["content"]["application/json"]["schema"]["properties"]


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("EnrollStudent", "409", "ALREADY_EXISTS (ALREADY_ENROLLED, ALREADY_WAITLISTED)"),
        ("GetStudent", "404", "NOT_FOUND (STUDENT_NOT_FOUND)"),
        ("UpdateStudent", "409", "ALREADY_EXISTS (EMAIL_TAKEN, EXTERNAL_ID_TAKEN); ABORTED (ETAG_MISMATCH)"),
    ],
)
def test_refusals_are_those_that_the_comments_promise(name: str, status: str, said: str) -> None:
    (operation,) = [one for _, _, one in OPERATIONS if one["operationId"] == name]
    assert operation["responses"][status]["description"] == said
    assert operation["responses"]["default"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Status"
    }
