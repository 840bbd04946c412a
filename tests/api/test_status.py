"""From errors to statuses, without a server: every reason has a code and an example, and nothing grows too large."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2

from enrollment_service.api.status import CODES, MAX_DETAIL_BYTES, MAX_VIOLATIONS, metadata_of, status_of
from enrollment_service.domain.errors import Reason, Refusal, Violation, course_taken, invalid_field, student_taken
from enrollment_service.domain.records import Owners
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.refusals import example_keys


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_in_the_proto_with_an_example_and_has_a_code(reason: Reason) -> None:
    assert pb.ErrorReason.Value(f"ERROR_REASON_{reason}") > 0
    assert isinstance(example_keys(reason), frozenset)
    assert reason in CODES


def test_every_reason_of_the_proto_is_known() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert names == {*Reason}


@pytest.mark.parametrize("count", [1, 20, 21, 5000])
@pytest.mark.parametrize("length", [1, 300, 5000])
def test_a_status_stays_small_however_much_is_wrong(count: int, length: int) -> None:
    violations = [invalid_field(f"field[{index}]", "x" * length) for index in range(count)]
    _, _, status = status_of(Refusal(violations))
    shown = [detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    bad = error_details_pb2.BadRequest.FromString(shown[0].value)
    assert 1 <= len(bad.field_violations) <= min(count, MAX_VIOLATIONS)
    assert len(bad.field_violations) == 1 or status.ByteSize() <= MAX_DETAIL_BYTES
    info = error_details_pb2.ErrorInfo.FromString(status.details[0].value)
    assert info.metadata.get("violation_count", "1") == str(count)
    ((key, value),) = metadata_of(status)
    assert key.endswith("-bin")
    assert value == status.SerializeToString()


def test_the_first_violation_gives_the_reason() -> None:
    first, second = Violation(Reason.COURSE_FULL, "courses/1", "Full."), invalid_field("x", "is bad")
    assert Refusal([first, second]).reason is Reason.COURSE_FULL
    assert Refusal([second, first]).reason is Reason.INVALID_FIELD


def test_an_owner_who_has_gone_again_is_not_named() -> None:
    for error, name in ((student_taken(Owners()), "students"), (course_taken(Owners()), "courses")):
        assert error.violations[0].subject == name
        assert error.violations[0].observed == {}
