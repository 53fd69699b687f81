"""`GatewayLink`: one connected gateway, seen from the shard. It carries messages to the tenant's actors and answers back.

One per gateway. It remembers what the gateway has open (sessions, watched runs, subscriptions) and what it still waits for, so that a
tenant that is rebuilt, or not yet brought up, costs its clients at most a retry: reports are held and submitted again, other pending
requests are answered UNAVAILABLE. It decides nothing else. May touch the runtime and the messages.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from broadaxe_actors.errors import Code
from broadaxe_actors.messages import (
    CancelRuns,
    CloseSession,
    CloseSubscription,
    CreateCron,
    CreateFilter,
    DeleteFilter,
    DeleteRateLimit,
    DeleteTimers,
    DeleteWorkflow,
    EnableCron,
    EndSession,
    EvaluateFilter,
    GetRun,
    GetStats,
    GetUsage,
    GetWorkerUsage,
    Heartbeat,
    MoveScheduledRuns,
    OpenSession,
    OpenSubscription,
    PauseRateLimit,
    PauseWorker,
    PauseWorkflow,
    PushEvents,
    PutLogs,
    PutRateLimit,
    PutStream,
    PutWorkflow,
    RefreshTimeout,
    Refusal,
    RegisterWorker,
    ReleaseSlot,
    ReplayRuns,
    Reply,
    ReportTasks,
    RunEvents,
    RunFinished,
    RunTimer,
    ScheduleRuns,
    SessionFull,
    StopWorker,
    TriggerRuns,
    UnpauseWorkflow,
    UnwatchRuns,
    UpdateFilter,
    UpsertLabels,
    WatchRuns,
)
from broadaxe_actors.runtime import Actor, Directory, Handle

MAX_WAITING = 20_000
"""Messages held for a tenant that is being brought up."""


class TenantActors(NamedTuple):
    """The actors of one tenant generation."""

    tracker: "Handle[Any]"
    queue: "Handle[Any]"
    claims: "Handle[Any]"
    router: "Handle[Any]"
    registry: "Handle[Any]"
    limits: "Directory[str]"
    """Rate-limit buckets by key."""
    timetable: "Handle[Any]"


_TO_TRACKER: dict[type, str] = {
    PutWorkflow: "put_workflow",
    TriggerRuns: "trigger",
    ReportTasks: "report",
    WatchRuns: "watch",
    UnwatchRuns: "unwatch",
    OpenSubscription: "open_subscription",
    CloseSubscription: "close_subscription",
    GetRun: "get_run",
    PutLogs: "put_logs",
    PutStream: "put_stream",
    GetStats: "get_stats",
    GetUsage: "get_usage",
    CancelRuns: "cancel_runs",
    ReplayRuns: "replay_runs",
    RefreshTimeout: "refresh_timeout",
    ReleaseSlot: "release_slot",
    PauseWorkflow: "pause_workflow",
    UnpauseWorkflow: "unpause_workflow",
    DeleteWorkflow: "delete_workflow",
}
_TO_REGISTRY = frozenset(
    {OpenSession, CloseSession, SessionFull, Heartbeat, StopWorker, UpsertLabels, PauseWorker}
)
_TO_ROUTER: dict[type, str] = {
    PushEvents: "push",
    CreateFilter: "create_filter",
    UpdateFilter: "update_filter",
    DeleteFilter: "delete_filter",
    EvaluateFilter: "evaluate_filter",
}
_TO_LIMIT: dict[type, str] = {PutRateLimit: "put", PauseRateLimit: "pause", DeleteRateLimit: "delete"}
_TO_TIMETABLE: dict[type, str] = {
    ScheduleRuns: "schedule",
    CreateCron: "ask",
    EnableCron: "ask",
    MoveScheduledRuns: "ask",
    DeleteTimers: "ask",
    RunTimer: "ask",
}
_NEW_WORK = frozenset(
    {
        TriggerRuns,
        PushEvents,
        PutLogs,
        PutWorkflow,
        RegisterWorker,
        ReplayRuns,
        PutRateLimit,
        CreateCron,
        ScheduleRuns,
        RunTimer,
        CreateFilter,
    }
)


class GatewayLink(Actor):
    """See the module."""

    def __init__(
        self, gateway_id: str, emit: Callable[[Sequence[Any]], None], supervisor: "Handle[Any]"
    ) -> None:
        super().__init__()
        self._gateway_id = gateway_id
        self._emit = emit
        self._supervisor = supervisor
        self._tenants: dict[str, TenantActors] = {}
        self._waiting: dict[str, list[Any]] = {}
        self._pending: dict[int, Any] = {}
        self._sessions: dict[str, OpenSession] = {}
        self._watched: dict[str, dict[str, None]] = {}
        """By tenant: runs in the order in which they were asked for."""
        self._subscriptions: dict[str, OpenSubscription] = {}
        self._out: list[Any] = []
        self._last_request = 0
        self._fullness = 0

    def on_stop(self) -> None:
        """The gateway is gone, and with it all that it had open: its workers are without a session until they come back."""
        for session in self._sessions.values():
            actors = self._tenants.get(session.tenant_id)
            if actors is not None:
                closed = CloseSession(session.tenant_id, session.worker_id, session.session_id)
                actors.registry.route.send(self.me, closed)
        for tenant_id, run_ids in self._watched.items():
            actors = self._tenants.get(tenant_id)
            if actors is not None and run_ids:
                actors.tracker.unwatch.send(self.me, UnwatchRuns(tenant_id, tuple(run_ids)))
        for subscription in self._subscriptions.values():
            actors = self._tenants.get(subscription.tenant_id)
            if actors is not None:
                closing = CloseSubscription(subscription.tenant_id, subscription.subscription_id)
                actors.tracker.close_subscription.send(self.me, closing)

    # ------------------------------------------------------------ from the gateway

    def submit(self, batch: Sequence[Any]) -> None:
        """Messages of the gateway, in order."""
        for message in batch:
            request_id = getattr(message, "request_id", 0)
            if request_id:
                if request_id <= self._last_request:
                    continue  # a batch that came twice: acted on already, and maybe answered
                self._last_request = request_id
                self._pending[request_id] = message
                if self._fullness and self._is_refused(message):
                    continue
            self._note(message)
            actors = self._tenants.get(message.tenant_id)
            if actors is None:
                self._hold(message)
            else:
                self._route(actors, message)

    def set_fullness(self, fullness: int) -> None:
        """So much waits for Postgres that new work (1), or reports as well (2), must be refused; 0 takes all."""
        self._fullness = fullness

    def _is_refused(self, message: Any) -> bool:
        refused = _NEW_WORK if self._fullness == 1 else _NEW_WORK | {ReportTasks}
        if type(message) not in refused:
            return False
        text = "too many records wait for Postgres, which is slow or away: nothing was taken, try again later"
        self.deliver((Refusal(message.request_id, Code.RESOURCE_EXHAUSTED, text),))
        return True

    def _note(self, message: Any) -> None:
        kind = type(message)
        if kind is WatchRuns:
            self._watched.setdefault(message.tenant_id, {}).update(dict.fromkeys(message.run_ids))
        elif kind is UnwatchRuns:
            watched = self._watched.get(message.tenant_id, {})
            for run_id in message.run_ids:
                watched.pop(run_id, None)
        elif kind is OpenSession:
            self._sessions[message.session_id] = message
        elif kind is CloseSession:
            self._sessions.pop(message.session_id, None)
        elif kind is OpenSubscription:
            self._subscriptions[message.subscription_id] = message
        elif kind is CloseSubscription:
            self._subscriptions.pop(message.subscription_id, None)

    def _route(self, actors: TenantActors, message: Any) -> None:
        kind = type(message)
        method = _TO_TRACKER.get(kind)
        if method is not None:
            getattr(actors.tracker, method).send(self.me, message)
        elif kind in _TO_REGISTRY:
            actors.registry.route.send(self.me, message)
        elif kind is RegisterWorker:
            actors.registry.register.send(self.me, message)
        elif kind is GetWorkerUsage:
            actors.registry.get_usage.send(self.me, message)
        elif kind in _TO_ROUTER:
            getattr(actors.router, _TO_ROUTER[kind]).send(self.me, message)
        elif kind in _TO_TIMETABLE:
            getattr(actors.timetable, _TO_TIMETABLE[kind]).send(self.me, message)
        elif kind in _TO_LIMIT:
            actors.limits.send(message.key, _TO_LIMIT[kind], self.me, message)
        else:
            raise TypeError(f"a gateway cannot submit {kind.__name__}")

    def _hold(self, message: Any) -> None:
        waiting = self._waiting.get(message.tenant_id)
        if waiting is None:
            waiting = self._waiting[message.tenant_id] = []
            self._supervisor.activate.send(message.tenant_id, self.me)
        if len(waiting) >= MAX_WAITING and type(message) is not CloseSession:
            request_id = getattr(message, "request_id", 0)
            if request_id:
                text = "the engine is restoring this tenant and holds too many requests for it: try again"
                self.deliver((Refusal(request_id, Code.RESOURCE_EXHAUSTED, text),))
            return
        waiting.append(message)

    def leave(self) -> None:
        """The gateway is gone, and its streams with it: workers are told, nobody waits or follows any more."""
        for session in tuple(self._sessions.values()):
            self._submit_one(CloseSession(session.tenant_id, session.worker_id, session.session_id))
        for subscription in tuple(self._subscriptions.values()):
            self._submit_one(CloseSubscription(subscription.tenant_id, subscription.subscription_id))
        for tenant_id, watched in self._watched.items():
            if watched:
                self._submit_one(UnwatchRuns(tenant_id, tuple(watched)))
        self._supervisor.gateway_left.send(self.me)

    def _submit_one(self, message: Any) -> None:
        actors = self._tenants.get(message.tenant_id)
        if actors is not None:
            self._route(actors, message)

    # ------------------------------------------------------------ from the shard

    def tenant_ready(self, tenant_id: str, actors: TenantActors) -> None:
        """A tenant's actors are up, for the first time or again: open what this gateway has open, then go on."""
        self._tenants[tenant_id] = actors
        waiting = self._waiting.pop(tenant_id, [])
        waiting_sessions = {message.session_id for message in waiting if type(message) is OpenSession}
        for session in self._sessions.values():
            if session.tenant_id == tenant_id and session.session_id not in waiting_sessions:
                reopened = session._replace(request_id=0, in_flight=None)
                actors.registry.route.send(self.me, reopened)
        for subscription in self._subscriptions.values():
            if subscription.tenant_id == tenant_id and subscription.request_id not in self._pending:
                actors.tracker.open_subscription.send(self.me, subscription._replace(request_id=0))
        watched = self._watched.get(tenant_id)
        if watched:
            actors.tracker.watch.send(self.me, WatchRuns(tenant_id, tuple(watched)))
        for message in waiting:
            self._route(actors, message)

    def tenant_down(self, tenant_id: str) -> None:
        """A tenant's actors are gone and will be rebuilt."""
        if self._tenants.pop(tenant_id, None) is None:
            return
        held: list[Any] = []
        refused: list[Refusal] = []
        for request_id, message in self._pending.items():
            if message.tenant_id != tenant_id:
                continue
            if type(message) is ReportTasks:
                held.append(message)
            else:
                text = "the engine had to restore this tenant from its record: try again"
                refused.append(Refusal(request_id, Code.UNAVAILABLE, text))
        self._waiting[tenant_id] = held
        self._supervisor.activate.send(tenant_id, self.me)
        self.deliver(tuple(refused))

    def deliver(self, messages: Sequence[Any]) -> None:
        """Messages for the gateway; those of one turn leave as one batch."""
        for message in messages:
            kind = type(message)
            if kind is Reply or kind is Refusal:
                if not self._answer(message):
                    continue
            elif kind is RunFinished:
                self._watched.get(message.tenant_id, {}).pop(message.run_id, None)
            elif kind is RunEvents and message.is_last:
                self._subscriptions.pop(message.subscription_id, None)
            elif kind is EndSession:
                self._sessions.pop(message.session_id, None)
            if not self._out:
                self.me.flush.send()
            self._out.append(message)

    def _answer(self, message: Reply | Refusal) -> bool:
        """Note an answer; False when nobody waits for it any more."""
        asked = self._pending.pop(message.request_id, None)
        if asked is None:
            return False
        is_refused = type(message) is Refusal
        if is_refused and type(asked) is OpenSession:
            self._sessions.pop(asked.session_id, None)
        elif type(asked) is OpenSubscription and (
            is_refused or (type(message) is Reply and message.value is False)
        ):
            self._subscriptions.pop(asked.subscription_id, None)
        return True

    def flush(self) -> None:
        """Hand over what was said."""
        out, self._out = self._out, []
        if out:
            self._emit(out)
