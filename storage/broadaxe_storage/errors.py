"""Errors of the storage layer, one shallow tree; asyncpg's own never leave this package.

    StorageError
    |-- InvalidConfig        settings that cannot work; every problem at once
    |-- DatabaseTooOld       a server below PostgreSQL 15
    |-- SchemaTooNew         a database migrated by a newer release
    |-- CannotMigrate        a record that the older schema could not carry on
    |-- EmbeddedFailed       the server of our own did not start
    |   `-- EmbeddedEnded    it did, and was gone before anyone could use it
    |-- DatabaseInUse        another live engine owns the shards
    |-- RefusedRecords       the data was refused, nothing written: the caller bisects
    |-- Fenced               the epoch is not ours any more, nothing written: stop
    |-- Unavailable          Postgres could not be reached, nothing written: try again
    |   `-- CannotConnect    says where and why
    |-- CommitUnknown        the connection was lost while committing: ask `read_flush`
    `-- StorageBug           Postgres refused our own SQL: a bug here

May touch nothing. Whether trying again can help is `is_retryable`, a property of the type.
"""

from collections.abc import Sequence
from typing import ClassVar


class StorageError(Exception):
    """Base of everything that storage raises."""

    is_retryable: ClassVar[bool] = False


class InvalidConfig(StorageError):
    """Settings that cannot work. `problems` has one sentence a problem, each naming its variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the database settings are not valid:\n  " + "\n  ".join(problems))
        self.problems = tuple(problems)


class DatabaseTooOld(StorageError):
    """The server is older than this release supports."""

    def __init__(self, found: str, required: int) -> None:
        super().__init__(
            f"the database runs PostgreSQL {found}, and PostgreSQL {required} or later is needed: "
            "upgrade it, or unset DATABASE_URL to use the embedded server"
        )
        self.found = found
        self.required = required


class SchemaTooNew(StorageError):
    """A newer release has migrated this database."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the database is at migration {found}, and this release knows migrations up to {known}: "
            "run the newer release, or migrate the database down with it first"
        )
        self.found = found
        self.known = known


class CannotMigrate(StorageError):
    """The database cannot go down to an older schema as long as it holds what that could not carry on. Nothing has changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database cannot be migrated down: {reason}")
        self.reason = reason


class EmbeddedFailed(StorageError):
    """The embedded Postgres could not be set up or started."""


class EmbeddedEnded(EmbeddedFailed):
    """The embedded Postgres started well, took connections, and ended at once: it was killed, or crashed."""


class DatabaseInUse(StorageError):
    """Another live engine owns the shards of this database."""

    def __init__(self, where: str, waited_seconds: float, owner: str) -> None:
        super().__init__(
            f"the database {where} is in use by another engine ({owner}); waited {waited_seconds:g} s for it to let go: "
            "stop that engine, or give this one a database or data directory of its own"
        )
        self.where = where
        self.waited_seconds = waited_seconds
        self.owner = owner


class RefusedRecords(StorageError):
    """The data of a batch was refused, and nothing of the batch was written.

    `ids` names the records at fault when they are known; else it is empty and the caller bisects.
    """

    def __init__(self, reason: str, ids: Sequence[str] = ()) -> None:
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        super().__init__(f"the records were refused: {reason}" + (f" ({shown})" if ids else ""))
        self.reason = reason
        self.ids = tuple(ids)


class Fenced(StorageError):
    """A newer owner has raised the epoch; nothing was written, and nothing will be from here."""

    def __init__(self, epoch: int, detail: str = "") -> None:
        super().__init__(
            f"epoch {epoch} no longer owns the shards: another engine has taken over{detail}; this one must stop"
        )
        self.epoch = epoch


class Unavailable(StorageError):
    """Postgres could not be reached or could not serve; nothing was written."""

    is_retryable = True


class CannotConnect(Unavailable):
    """No connection could be made. `where` is the address without its password."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"cannot connect to the database {where}: {reason}. Check that it runs and that DATABASE_URL "
            "(or DATABASE_POSTGRES_*) names it"
        )
        self.where = where
        self.reason = reason


class CommitUnknown(StorageError):
    """The connection was lost while flush `flush` was being committed: it may have happened."""

    def __init__(self, flush: int, reason: str) -> None:
        super().__init__(
            f"the connection was lost while flush {flush} was committing ({reason}): read_flush tells the outcome"
        )
        self.flush = flush


class StorageBug(StorageError):
    """Postgres refused a statement for a reason that data cannot cause. `sqlstate` is Postgres' code."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"Postgres refused our statement ({sqlstate}): {message}")
        self.sqlstate = sqlstate
