"""The desk where workers' reports wait for their commit.

A report is never answered with UNAVAILABLE, upon which official SDKs drop what else is in flight: while the engine cannot take it the
call is held, within bounds of memory and time, and then refused with RESOURCE_EXHAUSTED, which they retry.
"""

import asyncio
import logging

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import ReportsTaken, ReportTasks, TaskReport
from broadaxe_gateway.hub import Hub

logger = logging.getLogger("broadaxe.grpc")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
REPORT_OVERHEAD_BYTES = 200


class ReportDesk:
    """Takes reports to the engine and holds their callers."""

    def __init__(self, hub: Hub, max_held_bytes: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._hub = hub
        self._max_held_bytes = max_held_bytes
        self._patience_seconds = patience_seconds
        self._held_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def held_bytes(self) -> int:
        """Bytes of the reports whose commit is awaited."""
        return self._held_bytes

    async def wait_room(self) -> None:
        """Until another report may be held. Streams await this before they read on, so that their workers feel it."""
        await self._has_room.wait()

    async def take(self, tenant_id: str, worker_id: str, reports: tuple[TaskReport, ...]) -> ReportsTaken:
        """Hand reports over; returns after their commit. Raises `Refused` (RESOURCE_EXHAUSTED when out of room)."""
        if not self._has_room.is_set():
            raise Refused(
                Code.RESOURCE_EXHAUSTED,
                f"reports of {self._held_bytes:,} bytes wait for their commit: report again later",
            )
        return await self.hold(tenant_id, worker_id, reports)

    async def hold(self, tenant_id: str, worker_id: str, reports: tuple[TaskReport, ...]) -> ReportsTaken:
        """The same without a look at the room, for who has waited for it."""
        size = sum(len(report.payload) for report in reports) + REPORT_OVERHEAD_BYTES * len(reports)
        self._held_bytes += size
        if self._held_bytes >= self._max_held_bytes:
            self._has_room.clear()
        try:
            return await self._submit(tenant_id, worker_id, reports)
        finally:
            self._held_bytes -= size
            if self._held_bytes < self._max_held_bytes:
                self._has_room.set()

    async def _submit(self, tenant_id: str, worker_id: str, reports: tuple[TaskReport, ...]) -> ReportsTaken:
        pause = FIRST_PAUSE_SECONDS
        waited = 0.0
        while True:
            try:
                taken: ReportsTaken = await self._hub.ask(ReportTasks, tenant_id, worker_id, reports)
            except Refused as refusal:
                if refusal.code is not Code.UNAVAILABLE:
                    raise
                if self._hub.is_closed or waited >= self._patience_seconds:
                    raise Refused(
                        Code.RESOURCE_EXHAUSTED, f"the report could not be kept yet: {refusal.message}"
                    ) from refusal
                # The tenant is being rebuilt; nothing tells the gateway when it is ready.
                await asyncio.sleep(pause)
                waited += pause
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                return taken
