"""A database that is moved through the history of the schema, and what its schema is at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alembic import command
from alembic.config import Config

from tests.support.databases import Connection, in_thread
from tests.support.processes import PROJECT

# Everything that makes up a schema, in words that do not depend on the order in which it was made.
SCHEMA = """
SELECT 'column', format('%s.%s %s', c.relname, a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)))
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
UNION ALL SELECT 'table', concat_ws(' ', relname, reloptions::text) FROM pg_class
  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid
  WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
UNION ALL SELECT 'constraint', format('%s.%s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION ALL SELECT 'sequence', sequencename FROM pg_sequences WHERE schemaname = 'public'
ORDER BY 1, 2
"""


class Migrated:
    """A database that is moved through the history, and a connection to look at it."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self.connection = connection

    def run(self, work: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Runs an Alembic command on it."""
        in_thread(lambda: work(self.config(), *arguments, **options))

    def config(self) -> Config:
        config = Config(PROJECT / "alembic.ini")
        config.attributes["database_url"] = self.url
        return config

    def upgrade(self, revision: str = "head") -> None:
        self.run(command.upgrade, revision)

    def downgrade(self, revision: str) -> None:
        self.run(command.downgrade, revision)

    async def schema(self) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in await self.connection.fetch(SCHEMA)]

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(statement)]
