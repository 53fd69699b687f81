"""`PostgresKeeper`: starts the embedded Postgres again when it has ended while its server runs.

May touch the embedded server's start. Facts to know:

- Only the end of Postgres' first process counts: that one replaces any other of its processes that crashes. Why it ended does not count:
  killed, out of memory, or stopped by someone else's `pg_ctl`.
- Watching is an event of the operating system, no SQL and no timer. Whoever uses the database reconnects by themselves.
- A start may fail for a moment, while processes of the old server still hold its memory; hence several attempts, further and further apart.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from broadaxe_storage.errors import EmbeddedEnded, EmbeddedFailed

logger = logging.getLogger("broadaxe.database")

PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Between attempts to start it; when the attempt after the last one fails too, it is given up."""
MOST_ENDS = 30
ENDS_WITHIN_SECONDS = 60.0
"""A Postgres that starts well and ends more often than `MOST_ENDS` in this time is given up."""


class Postgres(Protocol):
    """What is watched: an `EmbeddedPostgres`."""

    @property
    def pid(self) -> int: ...

    def wait_until_ended(self) -> Coroutine[Any, Any, None]: ...


class _GivenUp(Exception):
    """Postgres cannot be kept running; the text says why."""


class PostgresKeeper:
    """Watches from its construction to `stop`.

    `start` starts Postgres and blocks meanwhile; it is called in a thread, raises `EmbeddedFailed`, and returns a server that it finds
    running. `on_lost` is called once, with the reason, when Postgres is given up; it is not watched any more then.
    """

    def __init__(
        self,
        postgres: Postgres,
        start: Callable[[], Postgres],
        on_lost: Callable[[str], None],
        *,
        pauses: Sequence[float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._on_lost = on_lost
        self._pauses = PAUSES_SECONDS if pauses is None else pauses
        self._monotonic = monotonic
        self._ends: deque[float] = deque()
        self._task = asyncio.get_running_loop().create_task(self._run(postgres), name="keep Postgres")

    async def stop(self) -> None:
        """Watch no longer, so that Postgres may be stopped. A start under way is let finish first. May be called twice."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, postgres: Postgres) -> None:
        try:
            while True:
                await postgres.wait_until_ended()
                logger.warning("the embedded Postgres (pid %d) has ended: starting it again", postgres.pid)
                self._count_end()
                postgres = await self._restart()
                logger.info("embedded Postgres started again (pid %d)", postgres.pid)
        except _GivenUp as error:
            self._on_lost(str(error))
        except Exception as error:
            logger.exception("the embedded Postgres cannot be watched")
            self._on_lost(f"the embedded Postgres cannot be watched: {error!r}")

    def _count_end(self) -> None:
        now = self._monotonic()
        self._ends.append(now)
        while now - self._ends[0] > ENDS_WITHIN_SECONDS:
            self._ends.popleft()
        if len(self._ends) > MOST_ENDS:
            raise _GivenUp(
                f"the embedded Postgres ended {len(self._ends)} times within {ENDS_WITHIN_SECONDS:g} s, each time after a good "
                "start, and is not started again: see postgres/server.log in the data directory"
            )

    async def _restart(self) -> Postgres:
        failures = 0
        while True:
            try:
                return await self._start_once()
            except EmbeddedEnded as error:
                logger.warning("the embedded Postgres was started, and has ended at once: %s", error)
                self._count_end()
            except EmbeddedFailed as error:
                if failures == len(self._pauses):
                    raise _GivenUp(
                        f"the embedded Postgres ended and did not start again in {failures + 1} attempts: {error}"
                    ) from error
                pause = self._pauses[failures]
                failures += 1
                logger.warning("the embedded Postgres did not start, next attempt in %g s: %s", pause, error)
                await asyncio.sleep(pause)

    async def _start_once(self) -> Postgres:
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be interrupted, and whoever stops Postgres next must find what it started.
            await asyncio.wait([starting])
            if (failure := starting.exception()) is not None:
                logger.warning("the embedded Postgres did not start: %s", failure)
            raise
