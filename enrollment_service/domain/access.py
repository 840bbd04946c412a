"""Who may call what: what a rule means. Which method has which rule is said beside the methods (`api/access.py`).

Rules look at the caller and at the ids in the request, never at the database: so no refusal tells whether an id exists.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from enrollment_service.domain.caller import Caller, Role, StudentKey


class Reach(Enum):
    """What of a method is open to students."""

    NOTHING = auto()
    OWN = auto()  # calls whose student_id is their own
    ALL = auto()  # there is nothing of other students in it


class Rule(NamedTuple):
    """Who may call a method; a registrar may call every one."""

    reader: bool
    student: Reach


def may_call(caller: Caller, rule: Rule) -> bool:
    """Whether the caller may call the method at all, whatever the request says."""
    return _may_call_with_any_ids(caller, rule) or (Role.STUDENT in caller.roles and rule.student is Reach.OWN)


def may_ask(caller: Caller, rule: Rule, student: int | StudentKey) -> bool:
    """Whether the caller may make this request.

    Args:
        caller: who asks.
        rule: that of the method.
        student: whom the request is about, in a method whose rule is about its own student; otherwise 0. A key, where
            the method takes several: then it must be the very one that the caller is known by.
    """
    if _may_call_with_any_ids(caller, rule):
        return True
    own = Role.STUDENT in caller.roles and rule.student is Reach.OWN
    mine = caller.own_key if isinstance(student, StudentKey) else caller.student_id
    return own and mine is not None and student == mine


def _may_call_with_any_ids(caller: Caller, rule: Rule) -> bool:
    return (
        Role.REGISTRAR in caller.roles
        or (rule.reader and Role.READER in caller.roles)
        or (rule.student is Reach.ALL and Role.STUDENT in caller.roles)
    )
