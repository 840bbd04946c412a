"""The numbers that other systems use, and course codes that are the same however they are written.

- `external_id` of students and courses: optional, unique where set, and found by how it begins.
- Codes of courses are unique whatever their case, surrounding or doubled spaces. Where two courses have the same code
  by this measure, the migration says which they are and stops before it changes anything: nobody but the registrar
  knows which of them to rename.

Servers of the version before go on serving on this schema, except that they know nothing of external ids.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from enrollment_service.store.faults import MisconfiguredError

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = ("students", "courses")
MAX_SHOWN = 20
KEY = """lower(regexp_replace(btrim(code), ' +', ' ', 'g') COLLATE "C")"""
_CLASHES = f"""
SELECT string_agg(format('courses/%s %s', id, to_json(code::text)), ' = ' ORDER BY id)
FROM courses GROUP BY {KEY} HAVING count(*) > 1 ORDER BY min(id)
"""  # noqa: S608 - the key is ours


def upgrade() -> None:
    _refuse_clashes()
    op.drop_constraint("uq_courses_code", "courses", type_="unique")
    op.create_index("uq_courses_code", "courses", [sa.text(KEY)], unique=True)
    for table in TABLES:
        op.add_column(table, sa.Column("external_id", sa.String(255), nullable=True))
        op.create_index(
            f"uq_{table}_external_id",
            table,
            ["external_id"],
            unique=True,
            postgresql_where=sa.text("external_id IS NOT NULL"),
        )
        op.create_index(
            f"ix_{table}_external_id_prefix", table, [sa.text("lower(external_id) text_pattern_ops")], unique=False
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_index(f"ix_{table}_external_id_prefix", table)
        op.drop_index(f"uq_{table}_external_id", table)
        op.drop_column(table, "external_id")
    op.drop_index("uq_courses_code", "courses")
    op.create_unique_constraint("uq_courses_code", "courses", ["code"])


def _refuse_clashes() -> None:
    if context.is_offline_mode():
        return
    clashes = list(op.get_bind().execute(sa.text(_CLASHES)).scalars())
    if clashes:
        shown = "; ".join(clashes[:MAX_SHOWN])
        more = f"; and {len(clashes) - MAX_SHOWN} more" if len(clashes) > MAX_SHOWN else ""
        raise MisconfiguredError(
            f"courses have the same code but for case and spaces; rename all but one of each, then migrate again: "
            f"{shown}{more}"
        )
