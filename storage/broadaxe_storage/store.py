"""The port behind which the record lives: what actors and gateway may ask of storage.

Two implementations pass one suite (`tests/conformance`): `postgres.PostgresStore`, and `memory.MemoryStore` for simulation.
May touch only `records` and `errors`. All methods are coroutines; none is called from inside an actor's handler.

Shards: tenants hash to `LOGICAL_SHARDS` fixed logical shards. `open_shards` takes them over: it raises the epoch of each,
and only then may anything be read for recovery. Each commit carries that epoch and a flush number; in the same transaction every
shard row that the batch touches goes `SET flush = n WHERE epoch = e`, which fences a stale owner and tells, after a connection was lost
during COMMIT, whether the flush took place (`read_flush`).
"""

import zlib
from collections.abc import Sequence
from typing import Protocol

from broadaxe_storage.records import (
    Batch,
    EventRow,
    FilterRow,
    FinishedTaskRun,
    IdempotencyKeyRow,
    RateLimitRow,
    RunFilter,
    SpilledQueue,
    TaskRunRow,
    WorkerRow,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.records_accounts import (
    ApiTokenRow,
    Defaults,
    MemberView,
    TenantMemberRow,
    TenantRow,
    UserRow,
)
from broadaxe_storage.records_timers import CronRow, ScheduledRunRow, Timer

LOGICAL_SHARDS = 256


def shard_of(tenant_id: str) -> int:
    """The logical shard that owns a tenant: fixed for ever, the same in every process."""
    return zlib.crc32(tenant_id.encode()) % LOGICAL_SHARDS


class ShardStore(Protocol):
    """What one shard needs: to commit, to recover, to page."""

    async def open_shards(self) -> int:
        """Take over all logical shards and return the new epoch, committed; flush numbers begin at 1 in each epoch.

        Raises `DatabaseInUse` when another live engine owns them.
        """
        ...

    async def commit(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        """Write one batch in one transaction, guarded by `epoch`. `shards` are the logical shards touched.

        Raises:
            Fenced: the epoch is not ours any more; nothing was written.
            RefusedRecords: the data itself was refused (bad bytes, duplicate id, guard not met); nothing was
                written. The caller bisects.
            Unavailable: Postgres could not be reached; nothing was written.
            CommitUnknown: the connection was lost while committing; `read_flush` tells the outcome.
        """
        ...

    async def read_flush(self, shard: int) -> tuple[int, int]:
        """Epoch and last flush number of a logical shard. Raises `Unavailable`."""
        ...

    async def load_tenants(self) -> list[TenantRow]: ...

    async def fetch_tenant(self, tenant_id: str) -> TenantRow | None: ...

    async def load_max_seq(self) -> int:
        """Highest `seq` that any live task run holds; 0 if none."""
        ...

    async def load_workers(self, tenant_id: str | None = None) -> list[WorkerRow]:
        """Workers that may come back (not STOPPED, changed or seen within the last 7 days, or holding a task run)."""
        ...

    async def load_latest_versions(self, tenant_id: str | None = None) -> list[WorkflowVersionRow]:
        """The newest version of every workflow that is not deleted, plus every other one that a live task run still names."""
        ...

    async def load_deleted_workflows(self, tenant_id: str | None = None) -> list[str]:
        """Ids of deleted workflows of which a task run is live, in order."""
        ...

    async def load_workflow_pauses(self, tenant_id: str | None = None) -> list[WorkflowPause]:
        """Workflows that are paused, or were once; ordered by id."""
        ...

    async def load_filters(self, tenant_id: str | None = None) -> list[FilterRow]:
        """Event filters, oldest first."""
        ...

    async def load_live_task_runs(
        self, tenant_id: str | None, after: str | None, limit: int
    ) -> list[TaskRunRow]:
        """Rows of which the engine must know at start, with payloads, ordered by id, those after `after`.

        That is all that is not spilled, and of runs of several tasks whose own row is not spilled also the spilled task runs.
        """
        ...

    async def load_spilled_queues(self, tenant_id: str | None = None) -> list[SpilledQueue]:
        """What waits in Postgres, by sub-queue; rows of runs of several tasks that wait there as a whole are not counted."""
        ...

    async def page_spilled(
        self, tenant_id: str, spill_queue: str, queue_priority: int, after_seq: int, limit: int
    ) -> list[TaskRunRow]:
        """The next task runs of one spilled sub-queue at one priority, by `seq`, those past `after_seq`."""
        ...

    async def load_expired_spilled(
        self, tenant_id: str, now: int, limit: int, except_workflows: Sequence[str] = ()
    ) -> list[TaskRunRow]:
        """Spilled task runs whose schedule deadline has passed, oldest deadline first; those of some workflows are left out."""
        ...

    async def fetch_live(self, tenant_id: str, ids: Sequence[str]) -> list[TaskRunRow]:
        """Rows of live runs whose own id or run id is one of these, spilled ones included, in any order.

        So a run id brings all rows of the run. Unknown ids are left out.
        """
        ...

    async def fetch_finished(self, tenant_id: str, ids: Sequence[str]) -> list[FinishedTaskRun]:
        """Rows of ended runs whose own id or run id is one of these, in any order. Unknown ids are left out."""
        ...

    async def select_live_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        """Ids of the live runs that a filter means, in the order in which they were created."""
        ...

    async def select_finished_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        """Ids of the ended runs that a filter means, in the order in which they were created."""
        ...

    async def fetch_children(
        self, tenant_id: str, parent_task_run_id: str
    ) -> list[tuple[int | None, str | None, str]]:
        """(child index, child key, run id) of every run that this task run ever spawned, ended ones included."""
        ...

    async def fetch_version(self, tenant_id: str, version_id: str) -> WorkflowVersionRow | None: ...

    async def fetch_events(
        self, tenant_id: str, keys: Sequence[str], since: int, after: tuple[int, str] | None, limit: int
    ) -> list[EventRow]:
        """Events of these keys created at `since` or later, by (created_at, id), those past `after`, which is such a pair."""
        ...

    async def fetch_idempotency_keys(
        self, tenant_id: str, keys: Sequence[str], now: int
    ) -> list[IdempotencyKeyRow]:
        """Who has claimed these keys, in any order. Free keys, and claims that have expired at `now`, are left out."""
        ...

    async def purge_idempotency_keys(self, now: int, limit: int) -> int:
        """Delete claims of any tenant that have expired at `now`, at most `limit`, oldest first. Returns how many."""
        ...

    async def fetch_rate_limits(self, tenant_id: str, keys: Sequence[str]) -> list[RateLimitRow]:
        """The rate-limit buckets of these keys, in any order; unknown ones are left out."""
        ...

    async def count_timers(self, tenant_id: str) -> tuple[int, int]:
        """How many crons a tenant has, and scheduled runs that have not fired."""
        ...

    async def count_usage(
        self, tenant_id: str, events_since: int, task_runs_since: int, until: int, most: int
    ) -> tuple[int, int]:
        """Events, and task runs, that were created since then and before `until`; of each at most `most` are counted."""
        ...

    async def page_timers(self, tenant_id: str, after: tuple[int, str] | None, limit: int) -> list[Timer]:
        """The crons and scheduled runs that are due next, by (due_at, id), those past `after`, which is such a pair."""
        ...

    async def fetch_crons(self, tenant_id: str, ids: Sequence[str], input_bytes: int) -> list[CronRow]:
        """Crons in the order of the ids; unknown ones are left out. Once `input_bytes` of inputs are reached the others come without."""
        ...

    async def fetch_cron_by_name(
        self, tenant_id: str, workflow_id: str, name: str, expression: str
    ) -> str | None:
        """The id of the cron of that workflow with that name and expression."""
        ...

    async def fetch_scheduled_runs(
        self, tenant_id: str, ids: Sequence[str], input_bytes: int
    ) -> list[ScheduledRunRow]:
        """Likewise, scheduled runs."""
        ...

    async def close(self) -> None:
        """Give up the shards and close every connection. May be called twice."""
        ...


class DirectoryStore(Protocol):
    """Tenants, people and tokens: what the gateway reads and writes itself. Every method raises `Unavailable` without Postgres."""

    async def ensure_default_tenant_and_admin(self, defaults: Defaults) -> TenantRow:
        """Make sure that the default tenant and its administrator exist, and return the tenant.

        What exists is left as it is: names and the password that people have changed meanwhile stay changed. A tenant of the
        same slug counts as the default tenant, whatever its id.
        """
        ...

    async def insert_tenant(self, tenant: TenantRow) -> None:
        """Raises `RefusedRecords` for an id or slug that exists."""
        ...

    async def load_tenants(self) -> list[TenantRow]: ...

    async def fetch_tenant(self, tenant_id: str) -> TenantRow | None: ...

    async def fetch_tenant_by_slug(self, slug: str) -> TenantRow | None: ...

    async def insert_user(self, user: UserRow) -> None:
        """Raises `RefusedRecords` for an id or e-mail address that exists."""
        ...

    async def fetch_user(self, user_id: str) -> UserRow | None: ...

    async def fetch_user_by_email(self, email: str) -> UserRow | None:
        """By address, in any case of letters."""
        ...

    async def put_member(self, member: TenantMemberRow) -> None:
        """Make a user a member, or change a member's role. Raises `RefusedRecords` for an unknown tenant or user."""
        ...

    async def list_members(self, tenant_id: str, limit: int) -> list[MemberView]: ...

    async def list_memberships(self, user_id: str) -> list[TenantMemberRow]: ...

    async def insert_token(self, token: ApiTokenRow) -> None:
        """Raises `RefusedRecords` for an id that exists or an unknown tenant."""
        ...

    async def fetch_token(self, token_id: str) -> ApiTokenRow | None: ...

    async def list_tokens(self, tenant_id: str, limit: int) -> list[ApiTokenRow]:
        """Those that are not revoked, the newest first."""
        ...

    async def revoke_token(self, tenant_id: str, token_id: str, at: int) -> bool:
        """Revoke a token of this tenant; False if it has no such token. A revoked token keeps the time of its first revocation."""
        ...
