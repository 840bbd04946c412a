"""What an error of the database says about the transaction it broke: by SQLSTATE, never by text or class.

And what is said of it: to the log, and to an operator at a terminal.
"""

from __future__ import annotations

from enum import Enum, auto

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class Fault(Enum):
    """What a database error says about the transaction it broke."""

    RETRY = auto()  # it did not happen, and the same again may succeed
    GONE = auto()  # the connection is lost, or the server cannot write; it did not happen
    MISCONFIGURED = auto()  # wrong settings or missing rights, which do not mend themselves; it did not happen
    EXHAUSTED = auto()  # the server is out of disk, memory or the like; it did not happen
    UNKNOWN = auto()  # the connection was lost while COMMIT was under way
    LOCKED = auto()  # a row stayed locked by others for too long; it did not happen
    TIMEOUT = auto()  # a statement took too long; it did not happen
    RACED = auto()  # a row it refers to was deleted meanwhile; it did not happen
    DUPLICATE = auto()  # a unique key is taken; it did not happen
    OTHER = auto()  # anything else: a fault of ours


_BY_SQLSTATE = {
    "40001": Fault.RETRY,
    "40P01": Fault.RETRY,
    "0A000": Fault.RETRY,  # a cached plan that DDL made stale
    "25006": Fault.GONE,  # the primary was demoted under the pool
    "57P01": Fault.GONE,
    "57P02": Fault.GONE,
    "57P03": Fault.GONE,
    "57P04": Fault.GONE,
    "57P05": Fault.GONE,
    "25P03": Fault.GONE,  # this process stood still for too long in the middle of a transaction
    "25P04": Fault.GONE,
    "58030": Fault.GONE,  # a disk that fails
    "53300": Fault.GONE,  # no connection is free at the moment
    "42501": Fault.MISCONFIGURED,
    "55P03": Fault.LOCKED,
    "57014": Fault.TIMEOUT,
    "23503": Fault.RACED,
    "23505": Fault.DUPLICATE,
}
_BY_CLASS = {
    "08": Fault.GONE,
    "53": Fault.EXHAUSTED,  # the connection is still good, and a COMMIT that ends so was rolled back
}
# What the driver says by itself: it could not connect, or the connection broke under it, half-way through a message
# for example. It also says so of work that it was given wrongly, but that is no more than a try more.
_OF_DRIVER = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class MisconfiguredError(Exception):
    """The database cannot be used as it is configured. The text says why to an operator, and holds no password."""

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class CommitUnknownError(Exception):
    """The connection was lost while COMMIT was under way: the transaction may or may not have happened."""


class StaleError(Exception):
    """What one statement saw was no longer so when the next one looked; it did not happen, and the same may succeed."""


def fault_of(error: BaseException) -> Fault:
    """What an error of the driver, of SQLAlchemy or of ours means."""
    if isinstance(error, CommitUnknownError):
        return Fault.UNKNOWN
    if isinstance(error, StaleError):
        return Fault.RETRY
    if isinstance(error, MisconfiguredError):
        return Fault.MISCONFIGURED
    error = _of_driver(error)
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return _BY_SQLSTATE.get(state) or _BY_CLASS.get(state[:2], Fault.OTHER)
    return Fault.GONE if isinstance(error, (*_OF_DRIVER, PoolTimeoutError)) else Fault.OTHER


def constraint_of(error: BaseException) -> str:
    """The name of the constraint that an error is about, or an empty string."""
    return getattr(_of_driver(error), "constraint_name", None) or ""


def facts_of(error: BaseException) -> dict[str, str]:
    """What a log line says of an error: fault, type and SQLSTATE, but never a text, which may quote data."""
    driver = _of_driver(error)
    facts = {"fault": fault_of(error).name, "error": f"{type(driver).__module__}.{type(driver).__qualname__}"}
    if state := getattr(driver, "sqlstate", None):
        facts["sqlstate"] = state
    return facts


def explanation_of(error: BaseException) -> str:
    """One line for an operator at a terminal: PostgreSQL's own message with its SQLSTATE, or what kind of error it is.

    The message names roles, tables and parameters; values that were sent stand in an error's details, left out here.
    """
    driver = _of_driver(error)
    if isinstance(driver, MisconfiguredError):
        return str(driver)
    if isinstance(driver, asyncpg.PostgresError):
        message = " ".join(str(driver.args[0]).split())
        return f"PostgreSQL says: {message} (SQLSTATE {driver.sqlstate})"
    return f"the database does not answer ({type(driver).__name__})"


def _of_driver(error: BaseException) -> BaseException:
    """The driver's error inside one of SQLAlchemy's or of ours."""
    if isinstance(error, CommitUnknownError) and error.__cause__ is not None:
        return _of_driver(error.__cause__)
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error
