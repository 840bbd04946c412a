"""Random chunks of students and courses over the wire, against a model that takes row after row from a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.api.test_import_rows import chunk, imported, told
from tests.support.client import Client
from tests.support.thoroughness import few
from tests.support.verification import wrong_in

NUMBERS, KEYS, TEXTS = ["n1", "n2", "n3", "n4"], ["a", "A", "b", "c", "d"], ["One", "Two"]


class Row(NamedTuple):
    """A student or a course, as far as this test goes: the external id, the e-mail address or code, name or title."""

    number: str
    key: str
    text: str


class Sent(NamedTuple):
    """A chunk, and whether only texts of what is there are to be changed."""

    rows: Sequence[Row]
    only_text: bool


@dataclass
class Model:
    """What is there, by external id, in the order in which it came."""

    rows: dict[str, Row] = field(default_factory=dict)

    def take(self, sent: Sent) -> tuple[list[int], list[int]]:
        """How many are created, updated, unchanged and rejected; and which are rejected."""
        before, counts, rejected = set(self.rows), [0, 0, 0, 0], []
        seen: set[str] = set()
        fates: dict[int, int] = {}
        for index, row in enumerate(sent.rows):
            if row.number in seen:
                fates[index] = 3
            elif row.number not in before:
                fates[index] = 3 if self._is_taken(row) else 0
                if fates[index] == 0:
                    self.rows[row.number] = row
            seen.add(row.number)
        for index, row in enumerate(sent.rows):
            if index not in fates:
                fates[index] = self._update(row, sent.only_text)
        for index in range(len(sent.rows)):
            counts[fates[index]] += 1
            rejected += [index] if fates[index] == 3 else []
        return counts, rejected

    def _is_taken(self, row: Row) -> bool:
        return any(one.key.lower() == row.key.lower() for one in self.rows.values() if one.number != row.number)

    def _update(self, row: Row, only_text: bool) -> int:
        wanted = self.rows[row.number]._replace(text=row.text) if only_text else row
        if self._is_taken(wanted):
            return 3
        changed = wanted != self.rows[row.number]
        self.rows[row.number] = wanted
        return 1 if changed else 2


_rows = st.builds(Row, st.sampled_from(NUMBERS), st.sampled_from(KEYS), st.sampled_from(TEXTS))
_sent = st.builds(Sent, st.lists(_rows, min_size=1, max_size=6), st.sampled_from([False, False, True]))


def as_student(number: str, key: str, text: str) -> pb.Student:
    return pb.Student(external_id=number, email=f"{key}@x.org", full_name=text)


def as_course(number: str, key: str, text: str) -> pb.Course:
    return pb.Course(external_id=number, code=key, title=text)


@pytest.mark.parametrize("kind", ["Student", "Course"])
@pytest.mark.random
@few(15)
@given(history=st.lists(_sent, min_size=1, max_size=8))
async def test_imports_are_what_the_model_says(
    client: Client, database_url: str, kind: str, history: list[Sent]
) -> None:
    make: Any = as_student if kind == "Student" else as_course
    text = "full_name" if kind == "Student" else "title"
    id_name, model = f"{kind.lower()}_id", Model()
    for one in await everything(client, kind):  # of the history before
        await client.call(f"Delete{kind}", **{id_name: getattr(one, id_name)})
    for sent in history:
        mask = [text] if sent.only_text else None
        (answer,) = await imported(client, chunk(*(make(*row) for row in sent.rows), mask=mask))
        counts, rows = told(answer)
        assert (counts, [index for index, _ in rows]) == model.take(sent)
    listed = await everything(client, kind)
    assert sorted(one.external_id for one in listed) == sorted(model.rows)
    assert [make(*model.rows[one.external_id]) for one in listed] == [bare(one) for one in listed]
    assert await wrong_in(database_url) == []


async def everything(client: Client, kind: str) -> list[Any]:
    return list(getattr(await client.call(f"List{kind}s"), f"{kind.lower()}s"))


def bare(one: Any) -> Any:
    """Without what the service gives."""
    copy = type(one)()
    copy.CopyFrom(one)
    for name in ("student_id", "course_id", "create_time", "update_time", "etag"):
        if name in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(name)
    return copy
