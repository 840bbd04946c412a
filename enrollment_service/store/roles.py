"""Sets up the two roles: the migrator, which owns the schema, and the one the service serves as.

An administrator of the database does this once, and again to change a password. What the second role may do: rights.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.pool import NullPool

from enrollment_service.settings import Settings
from enrollment_service.store.database import build_engine
from enrollment_service.store.faults import MisconfiguredError
from enrollment_service.store.models import EventRow
from enrollment_service.store.rights import TABLES, functions, quoted

# PostgreSQL's own default.
SCRAM_ITERATIONS = 4096


class Login(NamedTuple):
    """A role, and its password; without one, it keeps what it has."""

    role: str
    password: str | None


async def set_up_roles(settings: Settings, migrator: Login, app: Login) -> None:
    """Makes the roles that are missing, gives them their passwords, and hands the database over to the migrator.

    Everybody else loses the right to connect and to create anything; and what functions the migrator makes later,
    nobody may run unless it says so. All of it happens or nothing.

    Raises:
        MisconfiguredError: a password is of no use, or the role of the settings may not do this.
    """
    engine = build_engine(settings, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_set_up, migrator, app)
    finally:
        await engine.dispose()


def _set_up(connection: Connection, migrator: Login, app: Login) -> None:
    owner, server = quoted(migrator.role), quoted(app.role)
    database = quoted(connection.execute(text("SELECT current_database()")).scalar_one())
    for login in (migrator, app):
        _make(connection, login)
    before, after = _to_act_as(connection, migrator.role)
    for statement in (
        *before,
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {server}",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        *(f"ALTER TABLE IF EXISTS {table} OWNER TO {owner}" for table in TABLES),
        *(f"ALTER FUNCTION {function} OWNER TO {owner}" for function in functions(connection)),
        f"ALTER DATABASE {database} OWNER TO {owner}",
        *(f"ALTER PUBLICATION {quoted(name)} OWNER TO {owner}" for name in _publications(connection)),
        # What the owner had on it is now the new owner's, and the administrator may want to come again.
        f"GRANT CONNECT ON DATABASE {database} TO CURRENT_USER",
        *after,
    ):
        connection.exec_driver_sql(statement)


def _publications(connection: Connection) -> list[str]:
    """The publication of the log, if there is one."""
    there = text("SELECT pubname FROM pg_publication WHERE pubname = :name")
    return list(connection.execute(there, {"name": EventRow.__tablename__}).scalars())


def _to_act_as(connection: Connection, role: str) -> tuple[list[str], list[str]]:
    """What an administrator who is no superuser must say before and after work on what a role owns."""
    may_act = text("SELECT pg_has_role(:role, 'USAGE')")
    if connection.execute(may_act, {"role": role}).scalar_one():
        return [], []
    return [f"GRANT {quoted(role)} TO CURRENT_USER"], [f"REVOKE {quoted(role)} FROM CURRENT_USER"]


def _make(connection: Connection, login: Login) -> None:
    there = text("SELECT count(*) FROM pg_roles WHERE rolname = :role")
    if not connection.execute(there, {"role": login.role}).scalar_one():
        connection.exec_driver_sql(f"CREATE ROLE {quoted(login.role)} LOGIN")
    if login.password is not None:
        verifier = verifier_of(login.password)
        connection.exec_driver_sql(f"ALTER ROLE {quoted(login.role)} PASSWORD '{verifier}'")


def verifier_of(password: str) -> str:
    """What PostgreSQL keeps of a password: made here, so that no statement, and so no log of statements, has it.

    RFC 5802 and RFC 7677, in the form of PostgreSQL's `pg_authid.rolpassword`.

    Raises:
        MisconfiguredError: it has characters other than those of ASCII, which every client would have to write alike.
    """
    if not (password.isascii() and password.isprintable()):
        raise MisconfiguredError("a password must consist of printable ASCII characters")
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded_salt, encoded_stored, encoded_server = (base64.b64encode(one).decode() for one in (salt, stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{encoded_salt}${encoded_stored}:{encoded_server}"
