"""What REST reads of crons and scheduled runs, as a port: a part of `reads.Reads`."""

from typing import Protocol

from broadaxe_storage.timer_lists import CronQuery, CronSummary, ScheduledRunQuery, ScheduledRunSummary


class TimerReads(Protocol):
    """Reads of one tenant each. Every method raises `Unavailable` without Postgres."""

    async def list_crons(
        self, tenant_id: str, query: CronQuery, *, limit: int, offset: int = 0
    ) -> list[CronSummary]: ...

    async def count_crons(self, tenant_id: str, query: CronQuery) -> int:
        """How many such a listing has in all; many are not counted to the end."""
        ...

    async def fetch_cron(self, tenant_id: str, cron_id: str) -> CronSummary | None: ...

    async def list_scheduled_runs(
        self, tenant_id: str, query: ScheduledRunQuery, *, limit: int, offset: int = 0
    ) -> list[ScheduledRunSummary]: ...

    async def count_scheduled_runs(self, tenant_id: str, query: ScheduledRunQuery) -> int:
        """How many such a listing has in all; many are not counted to the end."""
        ...

    async def list_scheduled_run_ids(
        self, tenant_id: str, query: ScheduledRunQuery, after: str | None, limit: int
    ) -> list[tuple[str, bool]]:
        """Ids past `after`, in the order of ids; and whether each is declared in code."""
        ...

    async def fetch_scheduled_run(
        self, tenant_id: str, scheduled_run_id: str
    ) -> ScheduledRunSummary | None: ...
