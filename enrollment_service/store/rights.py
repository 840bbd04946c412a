"""What the service's own role may do in the database: the list of its rights, and the statements that grant them.

Whoever owns the tables migrates them and grants; the service serves as a role that has what stands here and no more.
How the two roles are made: roles.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from enrollment_service.store.faults import MisconfiguredError
from enrollment_service.store.models import (
    Base,
    CourseRow,
    EnrollmentRow,
    EventRow,
    FeedEpochRow,
    FingerprintKeyRow,
    LogHorizonRow,
    RequestRow,
    SeatsRow,
    StudentRow,
    WaiverRow,
)

DENIED = "42501"
VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class Rights:
    """What the service does to a table beside reading it: the columns that it writes, and whether it deletes rows.

    What a column's default fills in is not among them: nobody may forge the xid of an event.
    """

    model: type[Base]
    insert: tuple[str, ...]
    update: tuple[str, ...] = ()
    delete: bool = False

    @property
    def table(self) -> str:
        """The table's name."""
        return str(self.model.__tablename__)


_TIMES = ("create_time", "update_time")
_OF_STUDENT = ("full_name", "email", "external_id")
_OF_COURSE = ("code", "title", "description", "external_id")
_OF_SEATS = ("capacity", "waitlist_capacity", "enroll_open_time", "enroll_close_time", "permit_required")
_OF_COUNTS = ("enrolled_count", "waitlisted_count", "swap_count", "last_sequence", "last_event_time")
_OF_ENROLLMENT = ("state", "sequence", "enroll_time", "create_time", "swap_from_course_id", "latest_sequence")
_OF_EVENT = (
    *("course_id", "sequence", "kind", "student_id", "previous_state", "state", "waitlist_position"),
    *("enrolled_count", "waitlisted_count", "capacity", "changed_fields", "event_time"),
    *("request_id", "actor", "reason", "waived_reasons", "waiver_expire_time", "waiver_revoked"),
    "swap_from_course_id",
)
_OF_WAIVER = ("expire_time", "create_time", "actor", "sequence")
RIGHTS = (
    Rights(
        StudentRow,
        insert=("id", *_OF_STUDENT, *_TIMES),
        update=(*_OF_STUDENT, "update_time", "version"),
        delete=True,
    ),
    Rights(CourseRow, insert=("id", *_OF_COURSE, *_TIMES), update=(*_OF_COURSE, "update_time"), delete=True),
    Rights(
        SeatsRow,
        insert=("course_id", *_OF_SEATS, *_OF_COUNTS),
        update=(*_OF_SEATS, "version", *_OF_COUNTS),
        delete=True,
    ),
    Rights(EnrollmentRow, insert=("student_id", "course_id", *_OF_ENROLLMENT), update=_OF_ENROLLMENT, delete=True),
    Rights(WaiverRow, insert=("course_id", "student_id", "reason", *_OF_WAIVER), update=_OF_WAIVER, delete=True),
    # Append-only. Deleting what is old is the work of functions, which run with the rights of the tables' owner.
    Rights(EventRow, insert=_OF_EVENT),
    Rights(RequestRow, insert=("actor", "request_id", "fingerprint"), update=("outcome",), delete=True),
)
# PostgreSQL itself hashes with the key, and so on behalf of the service.
KEY_TABLE = FingerprintKeyRow.__tablename__
# Named anew by the owner only: it says which tokens hold.
EPOCH_TABLE = FeedEpochRow.__tablename__
# Nor may anybody else say from when on the log is complete.
HORIZON_TABLE = LogHorizonRow.__tablename__
# Run with the rights of the tables' owner: they delete old events, and no others.
FUNCTIONS = ("advance_log_horizon(timestamptz)", "purge_log(timestamptz, bigint, bigint, integer)")
TABLES = (*(rights.table for rights in RIGHTS), KEY_TABLE, EPOCH_TABLE, HORIZON_TABLE, VERSION_TABLE)
# The ids of these are drawn from a sequence.
_NUMBERED = (StudentRow, CourseRow)

# Only `grant` gives rights on single columns of this table, so whoever has one was granted them as the service's role.
_GRANTED = """
SELECT DISTINCT pg_get_userbyid(given.grantee) FROM pg_attribute a, aclexplode(a.attacl) given
WHERE a.attrelid = to_regclass('students') AND given.privilege_type = 'INSERT' AND given.grantee <> 0 ORDER BY 1
"""
# What a role may do beyond its rights: by its attributes, as a member of other roles, or because everybody may.
_EXCESS = """
WITH ours AS (SELECT oid, relname, relowner FROM pg_class
    WHERE oid IN (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) name))
SELECT 'is a superuser' FROM pg_roles WHERE rolname = :role AND rolsuper
UNION ALL SELECT 'may create roles' FROM pg_roles WHERE rolname = :role AND rolcreaterole
UNION ALL SELECT 'may bypass row security' FROM pg_roles WHERE rolname = :role AND rolbypassrls
UNION ALL SELECT format('may act as the owner of %I', relname) FROM ours WHERE pg_has_role(:role, relowner, 'MEMBER')
UNION ALL SELECT format('may create objects in the schema %I', current_schema())
    WHERE has_schema_privilege(:role, current_schema(), 'CREATE')
UNION ALL SELECT format('may create %s in the database %I', what, current_database())
    FROM (VALUES ('CREATE', 'schemas'), ('TEMPORARY', 'temporary tables')) created(privilege, what)
    WHERE has_database_privilege(:role, current_database(), privilege)
UNION ALL SELECT format('has %s on the whole table %I', privilege, relname)
    FROM ours, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
    WHERE has_table_privilege(:role, oid, privilege)
    AND NOT (privilege = 'DELETE' AND relname = ANY (CAST(:deleted_from AS text[])))
LIMIT 1
"""


def quoted(name: str) -> str:
    """A name as an identifier within a statement, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def check_may_migrate(connection: Connection) -> None:
    """Returns if this role may change the schema.

    Raises:
        MisconfiguredError: it may not.
    """
    role, owner, owned, may_create = connection.execute(
        text(
            "SELECT current_user, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), "
            "has_schema_privilege(current_schema(), 'CREATE') "
            "FROM (SELECT to_regclass('students') AS students) t LEFT JOIN pg_class c ON c.oid = t.students"
        )
    ).one()
    if owner is not None and not owned:
        raise MisconfiguredError(
            f"the role {quoted(role)} may not change the schema: migrate as its owner, {quoted(owner)} "
            f"(SQLSTATE {DENIED})",
            DENIED,
        )
    if owner is None and not may_create:
        raise MisconfiguredError(
            f"the role {quoted(role)} may not create tables: migrate as the owner of the database (SQLSTATE {DENIED})",
            DENIED,
        )


def granted_roles(connection: Connection) -> list[str]:
    """The roles that were granted the service's rights before."""
    return list(connection.execute(text(_GRANTED)).scalars())


def grant(connection: Connection, role: str) -> None:
    """Gives a role the service's rights on the tables there are, and takes from it what else it was given on them.

    From everybody it takes what a role could do harm with that may only serve: to create objects, temporary ones too.
    """
    database = quoted(connection.execute(text("SELECT current_database()")).scalar_one())
    schema = quoted(connection.execute(text("SELECT current_schema()")).scalar_one())
    grantee = quoted(role)
    statements = [
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {grantee}",
        f"GRANT USAGE ON SCHEMA {schema} TO {grantee}",
    ]
    there = _there(connection)
    for table in there:
        statements += [f"REVOKE ALL ON {table} FROM {grantee}", f"GRANT SELECT ON {table} TO {grantee}"]
    for rights in RIGHTS:
        if rights.table in there:
            statements += _grants(rights, _columns(connection, rights.table), grantee)
    for model in _NUMBERED:
        if model.__tablename__ in there:
            sequence = connection.execute(
                text("SELECT pg_get_serial_sequence(:table, 'id')"), {"table": model.__tablename__}
            ).scalar_one()
            statements += [
                f"REVOKE ALL ON SEQUENCE {sequence} FROM {grantee}",
                f"GRANT USAGE ON SEQUENCE {sequence} TO {grantee}",
            ]
    statements += [f"GRANT EXECUTE ON FUNCTION {function} TO {grantee}" for function in functions(connection)]
    for statement in statements:
        connection.exec_driver_sql(statement)


def functions(connection: Connection) -> list[str]:
    """Those of the functions that there are."""
    there = text("SELECT to_regprocedure(:function) IS NOT NULL")
    return [one for one in FUNCTIONS if connection.execute(there, {"function": one}).scalar_one()]


def grant_no_more(connection: Connection, role: str) -> None:
    """Gives a role the service's rights, and makes sure that it has no others.

    Raises:
        MisconfiguredError: there is no such role, or it may do more, which only somebody else can take from it.
    """
    if not connection.execute(text("SELECT count(*) FROM pg_roles WHERE rolname = :role"), {"role": role}).scalar_one():
        raise MisconfiguredError(f"there is no role {quoted(role)}: create it, or let the command `roles` do so")
    grant(connection, role)
    deleted_from = [rights.table for rights in RIGHTS if rights.delete]
    parameters = {"role": role, "tables": _there(connection), "deleted_from": deleted_from}
    excess = connection.execute(text(_EXCESS), parameters).scalar()
    if excess is not None:
        raise MisconfiguredError(f"the role {quoted(role)} {excess}, which the service's role must not")


def _grants(rights: Rights, columns: set[str], grantee: str) -> list[str]:
    """A migration may be at work whose tables do not have all columns yet, or an older one that was gone back to."""
    statements = [
        f"GRANT {verb} ({', '.join(name for name in names if name in columns)}) ON {rights.table} TO {grantee}"
        for verb, names in (("INSERT", rights.insert), ("UPDATE", rights.update))
        if columns.intersection(names)
    ]
    if rights.delete:
        statements.append(f"GRANT DELETE ON {rights.table} TO {grantee}")
    return statements


def _there(connection: Connection) -> list[str]:
    return [
        table
        for table in TABLES
        if connection.execute(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": table}).scalar_one()
    ]


def _columns(connection: Connection, table: str) -> set[str]:
    names = text("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND NOT attisdropped")
    return set(connection.execute(names, {"table": table}).scalars())
