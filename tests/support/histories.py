"""Random histories of commands on a few students and courses, for Hypothesis: against `decide` and over the wire.

Commands name students and courses by slot, because ids are never used twice: slot 0 is an id that never existed, the
others stand for whoever was created there last. `Cast.resolve` puts the ids in.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from enrollment_service.domain.commands import (
    Answer,
    Command,
    DeleteCourse,
    DeleteStudent,
    Done,
    Enroll,
    EnrollmentsAnswer,
    GrantWaivers,
    Import,
    ImportAnswer,
    Reconcile,
    ReconcileAnswer,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
    WaiversAnswer,
)
from enrollment_service.domain.errors import Refusal
from enrollment_service.domain.records import WAIVABLE, CountedCourse, Enrollment, Student
from tests.support.model import Model, Row
from tests.support.services import START

STUDENTS = range(1, 7)
COURSES = range(1, 4)
UNKNOWN = 987_654_321
# Etags are known only when the command is about to run.
CURRENT, STALE = "current", "0"


@dataclass
class Cast:
    """Who stands in which slot."""

    students: dict[int, int] = field(default_factory=lambda: {0: UNKNOWN})
    courses: dict[int, int] = field(default_factory=lambda: {0: UNKNOWN})

    def resolve(self, command: Command[Any], model: Model) -> Command[Any]:
        """The command with ids for slots, and with the present etag where it asks for that."""
        changes: dict[str, Any] = {}
        for name in ("student_id", "course_id", "from_course_id", "to_course_id"):
            if hasattr(command, name):
                changes[name] = (self.students if name == "student_id" else self.courses)[getattr(command, name)]
        if isinstance(command, Import | Reconcile | GrantWaivers | RevokeWaivers):
            changes["student_ids"] = tuple(self.students[slot] for slot in command.student_ids)
        if isinstance(command, Enroll | Import):
            changes["course_ids"] = tuple(self.courses[slot] for slot in command.course_ids)
        if isinstance(command, Enroll):
            changes["drop_course_ids"] = tuple(self.courses[slot] for slot in command.drop_course_ids)
        if getattr(command, "etag", "") == CURRENT:
            changes["etag"] = _etag(changes, model)
        return replace(command, **changes)


def _etag(ids: dict[str, int], model: Model) -> str:
    match ids:
        case {"student_id": student_id, "course_id": course_id}:
            return model.enrollment_etag(student_id, course_id)
        case {"course_id": course_id}:
            return model.course_etag(course_id)
        case {"student_id": student_id}:
            return model.student_etag(student_id)
    raise AssertionError(ids)


def _slots(slots: range) -> st.SearchStrategy[int]:
    """Nearly always known ones; the first is the simplest."""
    return st.sampled_from([*(list(slots) * (36 // len(slots))), 0])


_student, _course = _slots(STUDENTS), _slots(COURSES)
_known_student, _known_course = st.sampled_from(STUDENTS), st.sampled_from(COURSES)
_flag = st.booleans()
_etags = st.sampled_from(["", "", "", CURRENT, CURRENT, CURRENT, STALE])
# One in four: what is refused or tried teaches less than what happens.
_seldom = st.sampled_from([False, False, False, True])
_reasons = st.sampled_from(["", "late_drop"])
_hours = st.integers(-2, 8)
_capacities = st.sampled_from([1, 1, 2, 2, 3, 0, None])
_waitlists = st.sampled_from([9, 9, 2, 2, 1, 0])


def hour(number: int) -> datetime:
    """A time near those that the clock of a history shows."""
    return START + timedelta(hours=number)


# Drawn as a whole: drawing one by one and throwing duplicates away would waste most of what Hypothesis tries.
_pairs_of_courses = st.sampled_from([*itertools.permutations(COURSES, 2)] * 4 + [(1, 0), (0, 1)])
_several_courses = st.sampled_from(
    [*itertools.permutations(COURSES, 2), *itertools.permutations(COURSES)] * 2 + [(1, 0), (0, 2, 1)]
)
_orders_of_courses = st.sampled_from(
    [*itertools.permutations(COURSES, 2)] * 2 + [*itertools.permutations(COURSES), (1, 0), (0, 2)]
)
_rosters = st.sampled_from(
    [roster for size in (2, 1, 3, 0, 4) for roster in itertools.combinations(reversed(STUDENTS), size)] + [(1, 0)] * 3
)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, datetime | None]:
    """Both ends of a window or none, in order."""
    opens = draw(_hours)
    closes = opens + draw(st.integers(1, 8))
    return {
        "enroll_open_time": hour(opens) if draw(_flag) else None,
        "enroll_close_time": hour(closes) if draw(_flag) else None,
    }


@st.composite
def course_rules(draw: st.DrawFn) -> dict[str, Any]:
    """What a new course allows; mostly no window, so that something happens in it."""
    always: dict[str, datetime | None] = {"enroll_open_time": None, "enroll_close_time": None}
    window = draw(windows()) if draw(_seldom) else always
    return {
        "capacity": draw(_capacities),
        "waitlist_capacity": draw(_waitlists),
        **window,
        "permit_required": draw(_seldom),
    }


@st.composite
def _course_changes(draw: st.DrawFn) -> dict[str, Any]:
    single: st.SearchStrategy[dict[str, Any]] = st.one_of(
        st.fixed_dictionaries({"capacity": _capacities}),
        st.fixed_dictionaries({"waitlist_capacity": _waitlists}),
        st.fixed_dictionaries({"title": st.sampled_from(["Drawing", "Painting"])}),
        st.fixed_dictionaries({"permit_required": _flag}),
        st.fixed_dictionaries({"enroll_open_time": st.one_of(st.none(), _hours.map(hour))}),
        st.fixed_dictionaries({"enroll_close_time": st.one_of(st.none(), _hours.map(hour))}),
        windows(),
    )
    changes = draw(single)
    if draw(_flag):
        changes |= draw(st.fixed_dictionaries({"capacity": _capacities}))
    return changes


@st.composite
def _imports(draw: st.DrawFn) -> Import:
    pairs = draw(st.lists(st.tuples(_student, _course), min_size=1, max_size=12))
    students, courses = zip(*pairs, strict=True)
    return Import(student_ids=students, course_ids=courses, waitlist=not draw(_seldom))


_enrolls = st.builds(
    Enroll,
    student_id=_student,
    course_ids=st.one_of(_course.map(lambda one: (one,)), _several_courses),
    waitlist=_seldom.map(lambda seldom: not seldom),
    validate_only=_seldom,
    reason=_reasons,
)


@st.composite
def _plans(draw: st.DrawFn) -> Enroll:
    """Courses to enter and courses to leave, in any order."""
    slots = draw(_orders_of_courses)
    kept = draw(st.integers(1, len(slots) - 1))
    return Enroll(
        student_id=draw(_student),
        course_ids=slots[:kept],
        drop_course_ids=slots[kept:],
        waitlist=draw(_flag),
        validate_only=draw(_seldom),
        reason=draw(_reasons),
    )


_unenrolls = st.builds(
    Unenroll, student_id=_student, course_id=_course, allow_missing=_flag, etag=_etags, reason=_reasons
)


@st.composite
def _swaps(draw: st.DrawFn) -> Swap:
    leave, enter = draw(_pairs_of_courses)
    return Swap(
        student_id=draw(_student),
        from_course_id=leave,
        to_course_id=enter,
        waitlist=draw(_flag),
        validate_only=draw(_seldom),
        reason=draw(_reasons),
    )


_reconciles = st.builds(
    Reconcile,
    course_id=_course,
    student_ids=_rosters,
    max_removals=st.sampled_from([0, 1, 9, 9]),
    validate_only=_seldom,
)
_several_students = st.sampled_from(
    [chosen for size in (1, 3, 2) for chosen in itertools.combinations(reversed(STUDENTS), size)] + [(1, 0)] * 3
)
_waivable = st.sampled_from([(one,) for one in WAIVABLE] + [WAIVABLE, WAIVABLE[:2], WAIVABLE[::2]])
_grants = st.builds(
    GrantWaivers,
    course_id=_course,
    student_ids=_several_students,
    reasons=_waivable,
    expire_time=st.one_of(st.none(), _hours.map(hour)),
    validate_only=_seldom,
    reason=_reasons,
)
_revocations = st.builds(
    RevokeWaivers,
    course_id=_course,
    student_ids=_several_students,
    reasons=st.one_of(st.just(()), _waivable),
    validate_only=_seldom,
    reason=_reasons,
)
_course_updates = st.builds(UpdateCourse, course_id=_course, changes=_course_changes(), etag=_etags, reason=_reasons)
_course_deletes = st.builds(DeleteCourse, course_id=_course, etag=_etags, force=_flag, reason=_reasons)
_student_updates = st.builds(
    UpdateStudent,
    student_id=_student,
    changes=st.fixed_dictionaries({"full_name": st.sampled_from(["Ann Lee", "Bo Lee"])}),
    etag=_etags,
)
_student_deletes = st.builds(DeleteStudent, student_id=_student, etag=_etags, force=_flag)


def _commands(*weighted: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Command[Any]]:
    # Not `one_of`, which takes the parts of a part for its own and so forgets the weights.
    deck = [strategy for weight, strategy in weighted for _ in range(weight)]
    return st.sampled_from(range(len(deck))).flatmap(deck.__getitem__)


def commands() -> st.SearchStrategy[Command[Any]]:
    """Any command; the ones that fill and empty courses most often."""
    return _commands(
        (8, _enrolls), (4, _plans()), (4, _imports()), (8, _unenrolls), (8, _swaps()), (2, _reconciles), (3, _grants),
        (1, _revocations), (4, _course_updates), (1, _course_deletes), (1, _student_updates), (1, _student_deletes),
    )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Commands that arrive together, some hours after those before.

    Deleted students and courses were replaced before they arrive; `rules` are those of new courses.
    """

    commands: Sequence[Command[Any]]
    rules: dict[str, Any]
    hours: int = 0


def batches(most: int = 6) -> st.SearchStrategy[Batch]:
    """Some commands that arrive together."""
    # A clock may be set back.
    hours = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 3, 3, -2])
    return st.builds(Batch, st.lists(commands(), min_size=1, max_size=most), course_rules(), hours)


def histories(most: int = 20) -> st.SearchStrategy[list[Batch]]:
    """Whole histories."""
    return st.lists(batches(), min_size=3, max_size=most)


def plain_row(one: Enrollment) -> Row:
    """An enrollment in the model's terms."""
    times = (one.enroll_time, one.create_time)
    place = (one.student_id, one.course_id, one.state, one.waitlist_position)
    return (*place, *times, one.latest or one.sequence, one.swap_from_course_id)


def plain(answer: Answer | Refusal) -> Any:
    """An answer in the model's terms."""
    match answer:
        case Refusal():
            return [(violation.reason.value, violation.subject) for violation in answer.violations]
        case EnrollmentsAnswer():
            courses = [view.course for view in answer.enrollments if view.course is not None]
            counts = [(course.enrolled_count, course.waitlisted_count) for course in courses]
            return [plain_row(view.enrollment) for view in answer.enrollments], counts
        case ImportAnswer():
            rejected = [(index, reason.value) for index, reason in answer.rejected]
            return answer.enrolled, answer.waitlisted, answer.already_enrolled, rejected
        case ReconcileAnswer():
            return list(answer.added), list(answer.removed), answer.unchanged_count
        case WaiversAnswer():
            return [
                (one.course_id, one.student_id, tuple(map(str, one.reasons)), one.expire_time, one.create_time)
                for one in answer.waivers
            ]
        case CountedCourse():
            return answer.course.version, (answer.enrolled_count, answer.waitlisted_count)
        case Student():
            return answer.version
        case Done():
            return ()
