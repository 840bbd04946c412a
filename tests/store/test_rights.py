"""The two roles: what the one that serves may do, what it may not, and how both are set up.

That it may do all that the service does, every other test shows: their services serve as this role.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from alembic import command

from enrollment_service.engine.housekeeping import purge_expired
from enrollment_service.settings import Settings
from enrollment_service.store.database import Database
from enrollment_service.store.faults import MisconfiguredError
from enrollment_service.store.rights import RIGHTS, TABLES
from enrollment_service.store.roles import Login, set_up_roles
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.databases import Connection, PostgresServer, connected, in_thread, migrate
from tests.support.migrated import Migrated
from tests.support.mistakes import role_on
from tests.support.services import service_on, settings_for
from tests.support.traffic import traffic
from tests.support.verification import wrong_in

# All rights on tables, columns and sequences that anybody but the owner has.
GRANTED = """
SELECT grantee::regrole::text, c.relname || coalesce('.' || a.attname, ''), privilege_type FROM pg_class c
  CROSS JOIN LATERAL (SELECT NULL::name, c.relacl UNION ALL
    SELECT attname, attacl FROM pg_attribute WHERE attrelid = c.oid) a (attname, acl), aclexplode(a.acl)
  WHERE c.relnamespace = 'public'::regnamespace AND grantee <> c.relowner ORDER BY 1, 2, 3
"""
FORBIDDEN = [
    "UPDATE enrollment_events SET actor = 'somebody else'",
    "DELETE FROM enrollment_events",
    "UPDATE log_horizon SET since = now()",
    "ALTER PUBLICATION enrollment_events SET TABLE students",
    "TRUNCATE enrollment_events",
    # Whoever could choose the xid could hide an event from whoever follows the log.
    "INSERT INTO enrollment_events (course_id, sequence, xid) VALUES (1, 99, '3')",
    "TRUNCATE requests",
    "TRUNCATE student_courses",
    "UPDATE students SET id = id + 1000",
    "UPDATE students SET create_time = now()",
    "UPDATE courses SET id = id + 1000",
    "UPDATE course_seats SET course_id = course_id + 1000",
    "UPDATE student_courses SET student_id = student_id + 1",
    "UPDATE requests SET actor = 'somebody else'",
    "UPDATE alembic_version SET version_num = '0001'",
    "DELETE FROM alembic_version",
    "SELECT setval('students_id_seq', 1)",
    "CREATE TABLE anything (id int)",
    "CREATE TEMPORARY TABLE students (id int)",
    "CREATE SCHEMA anywhere",
    "CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql RETURN 'x'",
    "ALTER TABLE students ADD COLUMN note text",
    "ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_enrolled_within_capacity",
    "ALTER TABLE enrollment_events DISABLE TRIGGER ALL",
    "DROP TABLE requests",
    "DROP INDEX uq_students_email",
    "CREATE INDEX ON students (full_name)",
    "CREATE TRIGGER t BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE ROLE anybody",
    "COPY students TO PROGRAM 'cat'",
    "COPY students TO '/tmp/students'",
    "SELECT pg_read_file('PG_VERSION')",
    "SET session_replication_role = replica",
    "SELECT rolpassword FROM pg_authid",
]


# As PostgreSQL writes them.
FUNCTION_NAMES = [
    "advance_log_horizon(timestamp with time zone)",
    "purge_log(timestamp with time zone,bigint,bigint,integer)",
]


def expected_rights(role: str) -> list[tuple[str, str, str]]:
    """What stands in `store/rights.py`, as PostgreSQL lists it."""
    found = [(role, table, "SELECT") for table in TABLES]
    found += [(role, f"{rights.table}_id_seq", "USAGE") for rights in RIGHTS if "id" in rights.insert]
    for rights in RIGHTS:
        found += [(role, f"{rights.table}.{column}", "INSERT") for column in rights.insert]
        found += [(role, f"{rights.table}.{column}", "UPDATE") for column in rights.update]
        found += [(role, rights.table, "DELETE")] * rights.delete
    return sorted(found)


async def granted(connection: Connection) -> list[tuple[str, str, str]]:
    return sorted([(row[0], row[1], row[2]) for row in await connection.fetch(GRANTED)])


# --- the role that serves ---------------------------------------------------------------------------------------


async def test_the_service_lives_its_whole_life_as_the_app_role(
    postgres_server: PostgresServer, app_url: str, connection: Connection
) -> None:
    async with service_on(app_url) as service:
        await traffic(service.client)
        students, (course,) = await service.client.students(600), await service.client.courses(1)
        chunk = pb.ImportEnrollmentsRequest(
            student_ids=students, course_ids=[course] * len(students), request_id=str(uuid.uuid4())
        )
        (answer,) = [one async for one in service.client.stub.ImportEnrollments(iter([chunk]), timeout=20)]
        assert answer.enrolled == 600  # more than go by arrays: these went by COPY
        answer = await service.client.call(
            "ReconcileRoster", course_id=course, student_ids=students[:9], max_removals=600
        )
        assert len(answer.removed) == 591
        assert await service.client.health() == 1
        users = await connection.fetch(
            "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'enrollment-service' "
            "AND datname = current_database()"
        )
        assert [row["usename"] for row in users] == [postgres_server.app_role]
    database = Database(settings_for(app_url))
    try:
        await database.check_schema()
        await connection.execute("UPDATE requests SET create_time = now() - interval '1 year'")
        assert await purge_expired(database, timedelta(hours=72)) > 1
    finally:
        await database.close()
    assert await wrong_in(app_url) == []


async def test_the_app_role_has_what_is_listed_and_nothing_else(
    postgres_server: PostgresServer, connection: Connection
) -> None:
    assert await granted(connection) == expected_rights(postgres_server.app_role)


async def test_only_the_app_role_may_run_what_deletes_old_events(
    postgres_server: PostgresServer, connection: Connection
) -> None:
    grantees = await connection.fetch(
        "SELECT p.oid::regprocedure::text, given.grantee::regrole::text, p.prosecdef, p.proconfig "
        "FROM pg_proc p, aclexplode(p.proacl) given "
        "WHERE p.pronamespace = 'public'::regnamespace AND given.grantee <> p.proowner ORDER BY 1"
    )
    assert [tuple(row) for row in grantees] == [
        (function, postgres_server.app_role, True, ["search_path=public, pg_temp"]) for function in FUNCTION_NAMES
    ]


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_app_role_is_refused(postgres_server: PostgresServer, copy_url: str, statement: str) -> None:
    async with connected(postgres_server.app_url(copy_url)) as connection:
        await connection.execute("SET search_path = public")
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await connection.execute(statement)
    assert refusal.value.sqlstate == "42501"


async def test_nothing_that_is_refused_breaks_for_another_reason(copy_url: str) -> None:
    """The owner, who is a superuser here, may do what is forbidden; otherwise the refusals would mean nothing."""
    async with connected(copy_url) as connection:
        for statement in FORBIDDEN:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                assert error.sqlstate != "42501", statement  # noqa: PT017 - others are the statement's own affair
            finally:
                await transaction.rollback()


async def test_a_table_of_the_same_name_in_another_schema_is_not_taken_for_ours(
    app_url: str, postgres_server: PostgresServer, connection: Connection
) -> None:
    """As a role's own schema, or temporary tables, would be by default."""
    await connection.execute(f"CREATE SCHEMA {postgres_server.app_role} AUTHORIZATION {postgres_server.app_role}")
    async with connected(app_url) as own:
        await own.execute(f"CREATE TABLE {postgres_server.app_role}.students (LIKE public.students)")
        assert await own.fetchval("SELECT 'students'::regclass::text") == "students"
        assert (
            await own.fetchval(
                "SELECT relnamespace = 'public'::regnamespace FROM pg_class WHERE oid = 'students'::regclass"
            )
            is False
        )
    async with service_on(app_url) as service:
        await service.client.create_student()
    assert await connection.fetchval("SELECT count(*) FROM public.students") == 1
    await connection.execute(f"DROP SCHEMA {postgres_server.app_role} CASCADE")


# --- granting ---------------------------------------------------------------------------------------------------


async def test_granting_again_changes_nothing_and_takes_what_is_too_much(
    postgres_server: PostgresServer, database_url: str, connection: Connection
) -> None:
    role = postgres_server.app_role
    before = await granted(connection)
    migrate(database_url, role)
    assert await granted(connection) == before
    await connection.execute(f"GRANT TRUNCATE, UPDATE (actor) ON enrollment_events TO {role}")
    await connection.execute(f"GRANT UPDATE ON students_id_seq TO {role}")
    migrate(database_url, role)
    assert await granted(connection) == before


async def test_tables_of_later_migrations_are_granted_by_the_migration(
    empty: Migrated,
) -> None:
    async with role_on(empty.url, empty.connection) as (role, url):
        empty.upgrade("0002")
        in_thread(lambda: command.upgrade(granting(empty, role), "0002"))
        assert ("enrollment_events" in {row[1] for row in await granted(empty.connection)}) is False
        empty.upgrade()
        assert await granted(empty.connection) == expected_rights(role)
        async with service_on(url) as service:
            await traffic(service.client)


def granting(database: Migrated, role: str) -> Any:
    config = database.config()
    config.attributes["app_role"] = role
    return config


async def test_a_migration_forth_and_back_works_with_rights_granted(empty: Migrated) -> None:
    async with role_on(empty.url, empty.connection) as (role, _):
        migrate(empty.url, role)
        empty.downgrade("0001")
        empty.upgrade()
        assert await granted(empty.connection) == expected_rights(role)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ALTER ROLE {role} SUPERUSER", "is a superuser"),
        ("ALTER ROLE {role} CREATEROLE", "may create roles"),
        ("ALTER ROLE {role} BYPASSRLS", "may bypass row security"),
        ("GRANT CREATE ON SCHEMA public TO {role}", "may create objects in the schema public"),
        ("GRANT TEMPORARY ON DATABASE {database} TO {role}", "may create temporary tables in the database"),
        ("GRANT CREATE ON DATABASE {database} TO {role}", "may create schemas in the database"),
        ("GRANT UPDATE ON enrollment_events TO PUBLIC", "has UPDATE on the whole table enrollment_events"),
        ("GRANT {owner} TO {role}", "may act as the owner of "),
    ],
)
async def test_a_role_that_may_do_more_is_not_taken_for_the_apps(
    database_url: str, connection: Connection, given: str, said: str
) -> None:
    owner = f"test_owner_{secrets.token_hex(6)}"
    async with role_on(database_url, connection) as (role, _):
        await connection.execute(f"CREATE ROLE {owner}")
        await connection.execute(f"ALTER TABLE requests OWNER TO {owner}")
        database = await connection.fetchval("SELECT current_database()")
        await connection.execute(given.format(role=role, database=database, owner=owner))
        before = await granted(connection)
        with pytest.raises(MisconfiguredError, match=f'the role "{role}" {said}'):
            migrate(database_url, role)
        assert await granted(connection) == before
        await connection.execute("ALTER TABLE requests OWNER TO CURRENT_USER")
        await connection.execute(f"DROP ROLE {owner}")


# --- setting up -------------------------------------------------------------------------------------------------


class Roles:
    """Two roles as an administrator sets them up in a database, and their URLs."""

    def __init__(self, url: str) -> None:
        self.settings = settings_for(url)
        suffix = secrets.token_hex(6)
        # Names that must be quoted.
        self.migrator = Login(f'Test "migrator" {suffix}', f"m:@/%{suffix}")
        self.app = Login(f"test-app-{suffix}", f"a'\\ {suffix}")

    async def set_up(self) -> None:
        await set_up_roles(self.settings, self.migrator, self.app)

    def settings_of(self, login: Login, **settings: Any) -> Settings:
        _, _, rest = self.settings.database_url.partition("@")
        user = login.role.replace('"', "%22").replace(" ", "%20")
        return settings_for(f"postgresql://{user}@{rest}", database_password=login.password, **settings)

    async def connect(self, login: Login) -> Connection:
        settings = self.settings_of(login)
        return await asyncpg.connect(settings.database_url, password=login.password)


@asynccontextmanager
async def set_up_on(url: str) -> AsyncIterator[Roles]:
    roles = Roles(url)
    try:
        yield roles
    finally:
        async with connected(url) as connection:
            for role, _ in (roles.migrator, roles.app):
                if await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
                    quoted = '"' + role.replace('"', '""') + '"'
                    await connection.execute(f"REASSIGN OWNED BY {quoted} TO CURRENT_USER; DROP OWNED BY {quoted}")
                    await connection.execute(f"DROP ROLE {quoted}")


def migrate_as(settings: Settings, app_role: str | None) -> None:
    from enrollment_service.cli.migrate import run_migrations

    in_thread(lambda: run_migrations(settings.database_url, settings.password, app_role))


async def test_an_administrator_sets_up_the_roles_once_or_often(empty: Migrated) -> None:
    async with set_up_on(empty.url) as roles:
        await roles.set_up()
        await roles.set_up()
        migrator = roles.settings_of(roles.migrator)
        migrate_as(migrator, roles.app.role)
        owners = await empty.rows(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        assert owners == [(roles.migrator.role,)]
        server = roles.settings_of(roles.app)
        async with service_on(server.database_url, database_password=roles.app.password) as service:
            await traffic(service.client)


async def test_tables_of_an_administrator_are_handed_over(copy_url: str) -> None:
    async with set_up_on(copy_url) as roles, connected(copy_url) as connection:
        await roles.set_up()
        migrate_as(roles.settings_of(roles.migrator), roles.app.role)
        owners = await connection.fetch(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        assert [row[0] for row in owners] == [roles.migrator.role]
        others = await connection.fetch(
            "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
            "UNION SELECT pg_get_userbyid(pubowner) FROM pg_publication"
        )
        assert [row[0] for row in others] == [roles.migrator.role]
        app = roles.settings_of(roles.app)
        async with service_on(app.database_url, database_password=roles.app.password) as service:
            assert (await service.client.create_student()).student_id == 7


async def test_an_administrator_need_not_be_a_superuser(empty: Migrated) -> None:
    """As the first user of a managed PostgreSQL; it is no member of the migrator's role afterwards."""
    async with role_on(empty.url, empty.connection) as (admin, url):
        await empty.connection.execute(f"ALTER ROLE {admin} CREATEROLE CREATEDB")
        name = await empty.connection.fetchval("SELECT current_database()")
        await empty.connection.execute(f"ALTER DATABASE {name} OWNER TO {admin}")
        async with set_up_on(empty.url) as roles:
            roles.settings = settings_for(url)
            await roles.set_up()
            await roles.set_up()
            migrate_as(roles.settings_of(roles.migrator), roles.app.role)
            async with connected(url) as connection:
                assert not await connection.fetchval("SELECT pg_has_role($1, 'USAGE')", roles.migrator.role)
            assert {row[0] for row in await granted(empty.connection)} == {f'"{roles.app.role}"'}


async def test_a_password_that_is_given_again_is_the_new_one(empty: Migrated) -> None:
    async with set_up_on(empty.url) as roles:
        await roles.set_up()
        await (await roles.connect(roles.app)).close()
        old, roles.app = roles.app, Login(roles.app.role, "another")
        await roles.set_up()
        await (await roles.connect(roles.app)).close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await roles.connect(old)
        roles.app = Login(roles.app.role, None)
        await roles.set_up()
        await (await roles.connect(Login(roles.app.role, "another"))).close()


async def test_a_password_is_in_no_statement_that_the_server_could_log(
    postgres_server: PostgresServer, empty: Migrated
) -> None:
    async with set_up_on(empty.url) as roles:
        name = await empty.connection.fetchval("SELECT current_database()")
        await empty.connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        await roles.set_up()
    if postgres_server.log_file is None:
        pytest.skip("the log of a server that others have started is not at hand")
    log = postgres_server.log_file.read_text()
    assert "ALTER ROLE" in log
    for login in (roles.migrator, roles.app):
        assert login.password is not None
        assert login.password not in log
        assert login.password.replace("'", "''") not in log


async def test_nobody_else_may_connect_or_run_what_the_migrator_makes(empty: Migrated) -> None:
    async with set_up_on(empty.url) as roles, role_on(empty.url, empty.connection) as (_, stranger):
        await roles.set_up()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="CONNECT"):
            await asyncpg.connect(stranger)
        migrator = await roles.connect(roles.migrator)
        await migrator.execute("CREATE FUNCTION secret() RETURNS int LANGUAGE sql RETURN 1")
        await migrator.close()
        app = await roles.connect(roles.app)
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="function secret"):
                await app.fetchval("SELECT secret()")
        finally:
            await app.close()


@pytest.mark.parametrize("password", ["pässword", "tab\tbed"])
async def test_a_password_that_clients_may_write_in_several_ways_is_refused(empty: Migrated, password: str) -> None:
    async with set_up_on(empty.url) as roles:
        roles.app = Login(roles.app.role, password)
        with pytest.raises(MisconfiguredError, match="printable ASCII"):
            await roles.set_up()
        assert await empty.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{roles.app.role}'") == []
