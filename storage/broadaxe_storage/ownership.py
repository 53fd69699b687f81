"""Who owns the shards: an advisory lock held by one idle connection, and the epoch that fences whoever lost it.

May touch asyncpg through `pool`. The lock belongs to a session, so a killed engine frees it at once and a running one needs no SQL to
keep it. It only keeps two engines from starting side by side: what protects the record is the epoch. So when the lock's connection
is lost, writing goes on while the lock is taken again; an engine that took over meanwhile has raised the epoch, and our next flush is
`Fenced`.
"""

import asyncio
import logging

import asyncpg

from broadaxe_storage.config import DatabaseConfig, without_password
from broadaxe_storage.errors import DatabaseInUse, StorageError, Unavailable
from broadaxe_storage.migrate import LOCK_CLASS
from broadaxe_storage.pool import Connection, close, connect, translated_errors
from broadaxe_storage.queries import query

_logger = logging.getLogger("broadaxe.storage")

OWNER_LOCK = 2
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)


class Ownership:
    """Holds the lock of the shards' owner from `take` to `release`."""

    def __init__(self, config: DatabaseConfig) -> None:
        self._config = config
        self._connection: Connection | None = None
        self._retaking: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._held = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """False between the loss of the lock's connection and its return."""
        return self._held.is_set()

    async def wait_until_held(self) -> None:
        """Return once the lock is ours."""
        await self._held.wait()

    async def take(self) -> None:
        """Take the lock, waiting `lock_wait_seconds` for another to let go. Raises `DatabaseInUse`, `CannotConnect`."""
        self._is_wanted = True
        if not self._held.is_set():
            await self._connect_and_lock()

    async def release(self) -> None:
        """Let go. May be called twice, or without `take`."""
        self._is_wanted = False
        self._held.clear()
        if self._retaking is not None:
            self._retaking.cancel()
            await asyncio.wait([self._retaking])
            self._retaking = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._on_lost)
            await close(connection)

    async def _connect_and_lock(self) -> None:
        connection = await connect(
            self._config.session_url, self._config, name="broadaxe-owner", keepalive=True
        )
        try:
            with translated_errors():
                await self._lock(connection)
        except BaseException:
            await close(connection)
            raise
        if connection.is_closed():
            raise Unavailable("the connection that holds the engine's lock was lost again")
        self._connection = connection
        connection.add_termination_listener(self._on_lost)
        self._held.set()

    async def _lock(self, connection: Connection) -> None:
        wait = self._config.lock_wait_seconds
        await connection.execute(query("bound_lock_wait"), str(max(1, round(wait * 1000))))
        try:
            await connection.execute(query("take_lock"), LOCK_CLASS, OWNER_LOCK)
        except asyncpg.LockNotAvailableError as error:
            holder = await connection.fetchrow(query("describe_lock_holder"), LOCK_CLASS, OWNER_LOCK)
            owner = (
                f"session {holder['pid']} from {holder['address']}"
                if holder
                else "its session has just ended"
            )
            raise DatabaseInUse(without_password(self._config.session_url), wait, owner) from error

    def _on_lost(self, _: object) -> None:
        self._held.clear()
        self._connection = None
        if self._is_wanted:
            _logger.warning("the connection that holds the engine's lock was lost; taking the lock again")
            self._retaking = asyncio.get_running_loop().create_task(self._retake())

    async def _retake(self) -> None:
        attempt = 0
        while self._is_wanted:
            try:
                await self._connect_and_lock()
            except StorageError as error:
                if attempt % 10 == 0:
                    _logger.warning("the engine's lock is not held: %s", error)
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1
            else:
                _logger.info("the engine's lock is held again")
                return
