"""docs/reliability.md lists the rows that there are."""

from __future__ import annotations

import re

from faults.rows import ROWS
from tests.support.processes import PROJECT


def test_every_row_is_listed_and_the_other_way_round() -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text()
    listed = [(int(number), name) for number, name in re.findall(r"^\| (\d+) \| ([^|]+?) \|", page, re.MULTILINE)]
    assert listed == [(row.number, row.name) for row in ROWS]
