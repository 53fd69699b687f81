"""A record in memory behind the `Reads` port, an engine that keeps what it is asked, and the application over both."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from broadaxe_actors import definitions
from broadaxe_actors.cel import InlineEvaluator
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CancelRuns,
    DeleteRateLimit,
    DeleteWorkflow,
    EventsPushed,
    GetStats,
    GetUsage,
    GetWorkerUsage,
    PauseWorker,
    PauseWorkflow,
    PushEvents,
    ReplayRuns,
    TenantStats,
    TriggerRuns,
    UnpauseWorkflow,
)
from broadaxe_actors.telemetry import Telemetry
from broadaxe_gateway.config import load_config
from broadaxe_gateway.http.app import create_app
from broadaxe_gateway.http.health import Readiness
from broadaxe_gateway.keysets import generate_master_keyset, parse_master_keyset
from broadaxe_gateway.sealing import Sealer
from broadaxe_gateway.tokens import Identity, Unauthenticated
from broadaxe_gateway.webhooks.deliveries import Deliveries
from broadaxe_gateway.webhooks.directory import WebhookDirectory
from broadaxe_storage.memory_webhooks import MemoryWebhooks
from broadaxe_storage.records import (
    RUN_STEP,
    EventRow,
    FilterRow,
    LogRow,
    RateLimitRow,
    TaskEventRow,
    TaskRunState,
    WorkerRow,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.summaries import (
    EventQuery,
    LogQuery,
    RateLimitQuery,
    RunQuery,
    RunSummary,
    StartedRun,
)
from tests.factories import make_task_run, make_version, new_id
from tests.gateway.people import make_people

TENANT = "11111111-1111-4111-8111-111111111111"
OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
T = f"/api/v1/stable/tenants/{TENANT}"
NOW = 1_767_323_045_123_456
NOW_TEXT = "2026-01-02T03:04:05.123456Z"

LONE = WorkflowDefinition("lone", (TaskDefinition("only", "lone:only"),), description="one task")
DIAMOND = WorkflowDefinition(
    "diamond",
    (
        TaskDefinition("top", "diamond:top"),
        TaskDefinition("left", "diamond:left", parents=("top",)),
        TaskDefinition("right", "diamond:right", parents=("top",), is_durable=True),
    ),
    on_failure_task=TaskDefinition("mend", "diamond:mend"),
)


def version_of(definition: WorkflowDefinition, **fields: Any) -> WorkflowVersionRow:
    return make_version(
        tenant_id=TENANT,
        name=definition.name,
        definition=definitions.to_json(definition),
        workflow_id=fields.pop("workflow_id", new_id()),
        **fields,
    )


class FakeClock:
    """Seconds that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = NOW / 1e6

    def seconds(self) -> float:
        return self.now


class FakeTokens:
    async def verify(self, token: str, *, is_activity: bool = True) -> Identity:
        tenant_id = {"good": TENANT, "foreign": OTHER_TENANT}.get(token)
        if tenant_id is None:
            raise Unauthenticated("unknown")
        return Identity(tenant_id, str(uuid.uuid4()), 2**60)


class FakeEngine:
    """Creates what is triggered in the fake record, and acts on whatever it is told to."""

    def __init__(self, record: "FakeRecord") -> None:
        self.record = record
        self.asked: list[tuple[Any, ...]] = []
        self.pushed: list[Any] = []
        self.workers: dict[str, Any] = {}
        self.refusal: Refused | None = None
        self.acted_on: tuple[str, ...] = ()
        self.stats = TenantStats(())
        self.answers: dict[type, Any] = {DeleteRateLimit: None, GetUsage: (), GetWorkerUsage: ()}
        """What other requests are answered."""

    def new_id(self) -> str:
        return new_id()

    async def ask(self, message: type, tenant_id: str, *fields: Any) -> Any:
        self.asked.append((message, tenant_id, *fields))
        if self.refusal is not None:
            raise self.refusal
        if message is TriggerRuns:
            return tuple(self.record.trigger(run) for run in fields[0])
        if message in (CancelRuns, ReplayRuns):
            return self.acted_on
        if message is GetStats:
            return self.stats
        changes: dict[type, Any] = {
            PauseWorkflow: self.record.pause,
            UnpauseWorkflow: self.record.pause,
            DeleteWorkflow: self.record.delete,
        }
        if message in changes:
            return changes[message](tenant_id, *fields)
        if message in self.answers:
            return self.answers[message]
        if message is PushEvents:
            self.pushed += fields[0]
            return EventsPushed(tuple(new_id() for _ in fields[0]), NOW)
        assert message is PauseWorker
        worker_id, is_paused = fields
        info = self.workers.get(worker_id)
        if info is None or tenant_id != TENANT:
            raise Refused(Code.NOT_FOUND, f"worker {worker_id} does not exist")
        if is_paused is not None:
            info = self.workers[worker_id] = info._replace(is_paused=is_paused)
        return info


class FakeRecord:
    """`Reads` over lists. Tenants other than `TENANT` have nothing."""

    def __init__(self) -> None:
        self.rows: list[RunSummary] = []
        self.events: list[TaskEventRow] = []
        self.logs: list[LogRow] = []
        self.versions: list[WorkflowVersionRow] = []
        self.workers: list[WorkerRow] = []
        self.pauses: dict[str, WorkflowPause] = {}
        self.deleted: set[str] = set()
        self.limits: list[RateLimitRow] = []
        self.pushed: list[EventRow] = []
        self.started: list[StartedRun] = []
        self.filters: list[FilterRow] = []
        self.queries: list[RunQuery | LogQuery | RateLimitQuery | EventQuery] = []
        self.lone = version_of(LONE)
        self.diamond = version_of(DIAMOND)
        self.versions += [self.lone, self.diamond]

    # ---- made by tests

    def add(self, version: WorkflowVersionRow, **fields: Any) -> RunSummary:
        run_id = fields.get("id", new_id())
        values = {
            "id": run_id,
            "run_id": run_id,
            "tenant_id": TENANT,
            "workflow_id": version.workflow_id,
            "workflow_version_id": version.id,
            "step_index": 0,
            "created_at": NOW,
            "queued_at": NOW,
            "input": b'{"n": 1}',
            "metadata": '{"who": "me"}',
        }
        made = make_task_run(**(values | fields))
        row = RunSummary._make(getattr(made, field) for field in RunSummary._fields)
        self.rows.append(row)
        return row

    def add_run_of_several(self, **fields: Any) -> RunSummary:
        fields.setdefault("state", TaskRunState.QUEUED)
        return self.add(self.diamond, step_index=RUN_STEP, **fields)

    def add_task(self, run: RunSummary, step_index: int, **fields: Any) -> RunSummary:
        values = {
            "id": new_id(),
            "run_id": run.id,
            "step_index": step_index,
            "input": b"",
            "metadata": "{}",
            "parent_task_run_id": None,
        }
        return self.add(self.diamond, **(values | fields))

    def trigger(self, run: Any) -> str:
        version = next((row for row in self.versions if row.name == run.workflow_name), None)
        if version is None:
            raise Refused(Code.INVALID_ARGUMENT, f"workflow {run.workflow_name!r} is not registered")
        self.add(version, id=run.run_id, input=run.input, metadata=run.metadata)
        return run.run_id

    def pause(
        self, tenant_id: str, workflow_id: str, ttl: int | None = None, *behaviors: str
    ) -> WorkflowPause:
        if not any(row.workflow_id == workflow_id and row.tenant_id == tenant_id for row in self.versions):
            raise Refused(Code.NOT_FOUND, f"workflow {workflow_id} is not known")
        old = self.pauses.get(workflow_id)
        if ttl is not None:
            row = WorkflowPause(workflow_id, tenant_id, NOW, None, ttl, *behaviors)
        else:
            row = (old or WorkflowPause(workflow_id, tenant_id, None, None, None, None, None))._replace(
                paused_at=None
            )
        self.pauses[workflow_id] = row
        return row

    def delete(self, tenant_id: str, workflow_id: str) -> None:
        known = {row.workflow_id for row in self.versions if row.tenant_id == tenant_id}
        if workflow_id not in known - self.deleted:
            raise Refused(Code.NOT_FOUND, f"workflow {workflow_id} is not known")
        self.deleted.add(workflow_id)

    # ---- Reads

    def _mine(self, tenant_id: str) -> list[RunSummary]:
        return self.rows if tenant_id == TENANT else []

    def _meant(self, tenant_id: str, query: RunQuery) -> list[RunSummary]:
        self.queries.append(query)
        rows = [
            row
            for row in self._mine(tenant_id)
            if (not row.is_run_of_several if query.only_tasks else row.id == row.run_id)
            and row.created_at >= query.since
            and (not query.states or row.state in query.states)
        ]
        rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        return rows

    async def list_runs(
        self, tenant_id: str, query: RunQuery, *, limit: int, offset: int = 0, has_payloads: bool = False
    ) -> list[RunSummary]:
        rows = self._meant(tenant_id, query)
        return [self._shown(row, has_payloads) for row in rows[offset : offset + limit]]

    async def count_runs(self, tenant_id: str, query: RunQuery) -> int:
        return len(self._meant(tenant_id, query))

    async def count_states(self, tenant_id: str, query: RunQuery) -> dict[int, int]:
        return dict(Counter(row.state for row in self._meant(tenant_id, query)))

    async def count_ends(
        self, tenant_id: str, since: int, until: int, stretch_seconds: int
    ) -> list[tuple[int, int, int]]:
        step = stretch_seconds * 1_000_000
        found = Counter(
            (row.finished_at // step * step, row.state)
            for row in self._mine(tenant_id)
            if not row.is_run_of_several
            and since <= row.created_at
            and since <= (row.finished_at or 0) < until
        )
        return [(at, state, count) for (at, state), count in found.items()]

    def _shown(self, row: RunSummary, has_payloads: bool) -> RunSummary:
        run = next(other for other in self.rows if other.id == row.run_id)
        if not has_payloads:
            return row._replace(input=b"", output=None, metadata=run.metadata)
        return row._replace(input=run.input, metadata=run.metadata)

    async def list_run_ids(self, tenant_id: str, query: RunQuery) -> list[str]:
        return [row.id for row in self._meant(tenant_id, query)]

    async def list_tasks_of(
        self, tenant_id: str, run_ids: Sequence[str], *, has_payloads: bool = False
    ) -> list[RunSummary]:
        return [
            self._shown(row, has_payloads)
            for row in self._mine(tenant_id)
            if row.run_id in run_ids and not row.is_run_of_several
        ]

    async def fetch_rows(self, tenant_id: str, ids: Sequence[str]) -> list[RunSummary]:
        return [row for row in self._mine(tenant_id) if row.id in ids or row.run_id in ids]

    async def list_children(
        self, tenant_id: str, parent_task_run_ids: Sequence[str], limit: int
    ) -> list[RunSummary]:
        return [
            row
            for row in self._mine(tenant_id)
            if row.id == row.run_id and row.parent_task_run_id in parent_task_run_ids
        ][:limit]

    async def count_children(self, tenant_id: str, parent_task_run_id: str) -> int:
        return len(await self.list_children(tenant_id, (parent_task_run_id,), 10**9))

    async def fetch_timeline(self, tenant_id: str, task_run_ids: Sequence[str]) -> list[TaskEventRow]:
        return [event for event in self.events if event.task_run_id in task_run_ids]

    async def list_logs(self, tenant_id: str, query: LogQuery) -> list[LogRow]:
        self.queries.append(query)
        return self.logs[: query.limit] if tenant_id == TENANT else []

    async def count_logs(
        self, tenant_id: str, query: LogQuery, stretch_seconds: int
    ) -> list[tuple[int, str, int]]:
        self.queries.append(query)
        step = stretch_seconds * 1_000_000
        found = Counter(
            (line.created_at // step * step, line.level)
            for line in self.logs
            if line.tenant_id == tenant_id and line.level and query.since < line.created_at < query.until
        )
        return [(at, level, count) for (at, level), count in found.items()]

    async def fetch_version(self, tenant_id: str, version_id: str) -> WorkflowVersionRow | None:
        return next(
            (row for row in self.versions if row.id == version_id and row.tenant_id == tenant_id), None
        )

    async def list_workflows(
        self, tenant_id: str, name: str = "", *, limit: int, offset: int = 0
    ) -> list[WorkflowVersionRow]:
        newest: dict[str, WorkflowVersionRow] = {}
        for row in sorted(self.versions, key=lambda row: row.number):
            if (
                row.tenant_id == tenant_id
                and name.lower() in row.name.lower()
                and row.workflow_id not in self.deleted
            ):
                newest[row.workflow_id] = row
        return sorted(newest.values(), key=lambda row: row.name)[offset : offset + limit]

    async def count_workflows(self, tenant_id: str, name: str = "") -> int:
        return len(await self.list_workflows(tenant_id, name, limit=10**9))

    async def fetch_workflow(self, tenant_id: str, workflow_id: str) -> WorkflowVersionRow | None:
        rows = [
            row
            for row in self.versions
            if row.workflow_id == workflow_id
            and row.tenant_id == tenant_id
            and workflow_id not in self.deleted
        ]
        return max(rows, key=lambda row: row.number, default=None)

    async def fetch_workflow_pauses(self, tenant_id: str, workflow_ids: Sequence[str]) -> list[WorkflowPause]:
        return [
            row
            for row in self.pauses.values()
            if row.workflow_id in workflow_ids and row.tenant_id == tenant_id
        ]

    async def list_workers(self, tenant_id: str, since: int) -> list[WorkerRow]:
        return [row for row in self.workers if row.tenant_id == tenant_id and row.updated_at >= since]

    async def fetch_worker(self, tenant_id: str, worker_id: str) -> WorkerRow | None:
        return next((row for row in self.workers if row.id == worker_id and row.tenant_id == tenant_id), None)

    async def list_events(
        self, tenant_id: str, query: EventQuery, *, limit: int, offset: int = 0
    ) -> list[EventRow]:
        self.queries.append(query)
        rows = [row for row in self.pushed if row.tenant_id == tenant_id]
        return rows[offset : offset + limit]

    async def count_events(self, tenant_id: str, query: EventQuery) -> int:
        return sum(row.tenant_id == tenant_id for row in self.pushed)

    async def fetch_event(self, tenant_id: str, event_id: str) -> EventRow | None:
        found = (row for row in self.pushed if (row.tenant_id, row.id) == (tenant_id, event_id))
        return next(found, None)

    async def list_runs_of_events(self, tenant_id: str, events: Sequence[EventRow]) -> list[StartedRun]:
        ids = {row.id for row in events}
        return [run for run in self.started if run.event_id in ids]

    async def list_event_keys(self, tenant_id: str) -> list[str]:
        return sorted({row.key for row in self.pushed if row.tenant_id == tenant_id})

    async def list_filters(
        self,
        tenant_id: str,
        workflow_ids: Sequence[str] = (),
        scopes: Sequence[str] = (),
        *,
        limit: int,
        offset: int = 0,
    ) -> list[FilterRow]:
        rows = [
            row
            for row in self.filters
            if row.tenant_id == tenant_id
            and (not workflow_ids or row.workflow_id in workflow_ids)
            and (not scopes or row.scope in scopes)
        ]
        return rows[offset : offset + limit]

    async def count_filters(
        self, tenant_id: str, workflow_ids: Sequence[str] = (), scopes: Sequence[str] = ()
    ) -> int:
        return len(await self.list_filters(tenant_id, workflow_ids, scopes, limit=10**9))

    async def fetch_filter(self, tenant_id: str, filter_id: str) -> FilterRow | None:
        found = (row for row in self.filters if (row.tenant_id, row.id) == (tenant_id, filter_id))
        return next(found, None)

    async def list_rate_limits(
        self, tenant_id: str, query: RateLimitQuery, now: int, *, limit: int, offset: int = 0
    ) -> list[RateLimitRow]:
        self.queries.append(query)
        rows = [row for row in self.limits if row.tenant_id == tenant_id and query.search in row.key]
        return rows[offset : offset + limit]

    async def count_rate_limits(self, tenant_id: str, query: RateLimitQuery) -> int:
        return len(await self.list_rate_limits(tenant_id, query, 0, limit=10**9))


class Rest:
    """The application, and what stands behind it."""

    def __init__(self, parts: dict[str, Any] | None = None, **settings: str) -> None:
        """`parts` of the application stand in for those made here."""
        self.record = FakeRecord()
        self.engine = FakeEngine(self.record)
        self.webhooks = MemoryWebhooks()
        self.periods: dict[str, int] = {}
        self.clock = FakeClock()
        keyset = parse_master_keyset(generate_master_keyset())
        directory = WebhookDirectory(self.webhooks, Sealer(keyset), monotonic=self.clock.seconds)
        self.deliveries = Deliveries(
            directory,
            self.engine,
            InlineEvaluator(),
            now=self.clock.seconds,
            monotonic=self.clock.seconds,
        )

        config = load_config({"SERVER_GRPC_MAX_MSG_SIZE": "1048576", **settings})
        self.people = make_people(config.auth)
        self.telemetry = Telemetry()
        self.refreshed: list[str | None] = []

        async def telemetry(tenant_id: str | None) -> Telemetry:
            self.refreshed.append(tenant_id)
            return self.telemetry

        made: dict[str, Any] = {
            "hub": self.engine,
            "reads": self.record,
            "fetch_version": self.record.fetch_version,
            "webhooks": directory,
            "deliveries": self.deliveries,
            "fetch_retention_period": self.fetch_period,
            "count_timers": self.count_timers,
            "tokens": FakeTokens(),
            "people": self.people,
            "telemetry": telemetry,
            "gateway_figures": dict,
            "readiness": Readiness(),
            "config": config,
            "version": "v0.79.0",
        }
        self.app = create_app(**(made | (parts or {})))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(
            transport=transport, base_url="http://test", headers={"Authorization": "Bearer good"}
        )

    async def fetch_period(self, tenant_id: str) -> int | None:
        return self.periods.get(tenant_id)

    async def count_timers(self, tenant_id: str) -> tuple[int, int]:
        return (2, 3) if tenant_id == TENANT else (0, 0)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.client.get(path, params=params)

    async def get_json(self, path: str, **params: Any) -> Any:
        answer = await self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers={"Content-Type": "application/json"})


def now_us() -> int:
    return time.time_ns() // 1000
