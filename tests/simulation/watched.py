"""Handlers that raise when told to, and that show what they decided; numbers of the engine made small. In place while a simulation runs."""

from types import MappingProxyType
from typing import Any

from broadaxe_actors import claims, event_router, followers
from broadaxe_actors.claims import Claims
from broadaxe_actors.connected_worker import ConnectedWorker
from broadaxe_actors.creation import creation
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.run_tracker import RunTracker, control, progress, tracker
from broadaxe_actors.supervisor import Supervisor
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_actors.timetable import Timetable
from broadaxe_actors.worker_registry import WorkerRegistry
from broadaxe_storage.records import TaskRunState
from tests.simulation.chaos import Violation

BOMBS = (
    (
        RunTracker,
        (
            "report",
            "propose",
            "created",
            "queued",
            "worker_lost",
            "due",
            "trigger",
            "watch",
            "adopt",
            "adopt_loaded",
            "report_loaded",
            "expired_loaded",
            "paged_in",
            "save",
            "ended_committed",
        ),
    ),
    (
        RunTracker,
        (
            "cancel_runs",
            "replay_runs",
            "order_select",
            "order_selected",
            "order_settled",
            "order_loaded",
            "refresh_timeout",
            "release_slot",
            "waits_met",
            "waits_checked",
            "evaluated",
            "progress_more",
            "go_on",
            "keys_claimed",
            "keys_evaluated",
            "claimed",
            "create_slice",
            "parents_loaded",
            "start_from_events",
            "get_run",
            "put_workflow",
        ),
    ),
    (Timetable, ("ask", "schedule", "read_rows", "rows_read", "deliver", "page_read", "wake")),
    (RunTracker, ("start_timed",)),
    (EventRouter, ("push", "committed", "add_waits", "drop_waits", "looked_up", "evaluated", "offer_more")),
    (
        Claims,
        (
            "claim",
            "loaded",
            "forget",
            "claim_keys",
            "keys_loaded",
            "keys_committed",
            "release_key",
            "unclaim_keys",
        ),
    ),
    (TenantQueue, ("match", "release", "enqueue", "hold")),
    (ConnectedWorker, ("open_session", "start_tasks", "heartbeat", "done", "cancel", "holds")),
    (WorkerRegistry, ("register", "route")),
)
"""Handlers of each class that may raise; one group is chosen, then one of its handlers."""

SMALL = (
    (progress, "SLICE", (1, 4, 200)),
    (tracker, "GO_ON_SLICE", (1, 50)),
    (control, "SLICE", (1, 3, 100)),
    (creation, "SLICE", (4, 100)),
    (event_router, "LOOKBACK_PAGE", (2, 500)),
    (event_router, "EVALUATIONS", (2, 200)),
    (event_router, "KEYS_REMEMBERED", (1, 50_000)),
    (claims, "KEYS_KEPT", (2, 50_000)),
    (followers, "RECENT_RESULTS", (2, 10_000)),
)
"""Limits of the engine, and what a simulation may make of them, so that it meets them."""


class InjectedError(Exception):
    """What an injected handler raises."""


class Watched:
    """See the module."""

    def __init__(self, simulation: Any) -> None:
        self._sim = simulation
        self._saved: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        for module, name, values in SMALL:
            self._saved.append((module, name, getattr(module, name)))
            setattr(module, name, self._sim.rng.choice(values))
        for actor_class, handlers in BOMBS:
            self._wrap(actor_class, {name: self._bomb(actor_class, name) for name in handlers})
        self._wrap(RunTracker, {"propose": self._observe_proposals})
        self._wrap(Supervisor, {"crashed": self._observe_crash, "workers_restored": self._observe_return})

    def __exit__(self, *_error: object) -> None:
        for owner, name, value in reversed(self._saved):
            setattr(owner, name, value)

    def _wrap(self, actor_class: Any, wrappers: dict[str, Any]) -> None:
        handlers = actor_class.handlers
        self._saved.append((actor_class, "handlers", handlers))
        wrapped = {name: wrap(handlers[name]) for name, wrap in wrappers.items()}
        for name, function in wrapped.items():
            function.__name__ = name
            function.__qualname__ = f"{actor_class.__name__}.{name}"
        actor_class.handlers = MappingProxyType({**handlers, **wrapped})

    def _bomb(self, actor_class: type, name: str) -> Any:
        chaos = self._sim.chaos
        key = (actor_class.__name__, name)

        def wrap(function: Any) -> Any:
            def handler(actor: Any, *args: Any) -> Any:
                if chaos.bomb is None or chaos.bomb[:2] != key or not chaos.is_on:
                    return function(actor, *args)
                is_after = chaos.bomb[2]
                chaos.bomb = None
                if is_after:
                    function(actor, *args)
                when = "after" if is_after else "before"
                chaos.hit(f"tenant crash {when} a handler")
                chaos.bombs[".".join(key)] += 1
                raise InjectedError(f"injected {when} {key}")

            return handler

        return wrap

    def _observe_proposals(self, function: Any) -> Any:
        check = self._sim.check

        def handler(actor: Any, proposals: Any) -> Any:
            waiting = {
                item.task_run_id
                for item in proposals
                if (task := actor._live.get(item.task_run_id)) is not None
                and task.state == TaskRunState.QUEUED
            }
            function(actor, proposals)
            given: set[str] = set()
            for item in proposals:
                task = actor._live.get(item.task_run_id)
                if task is not None and task.state == TaskRunState.ASSIGNED and task.id in waiting:
                    waiting.discard(task.id)
                    check.proposed(actor, task)
                    given.add(task.worker_id)
            check.ledger(actor, given)

        return handler

    def _observe_crash(self, function: Any) -> Any:
        sim = self._sim

        def handler(supervisor: Any, tenant_id: str, error: str) -> Any:
            sim.check.crashed()
            sim.check.trouble_begins(tenant_id)
            sim.check.see("tenant crashed", tenant_id)
            if "InjectedError" not in error and "the simulation plays a guard" not in error:
                sim.fail(Violation(f"an actor of the engine raised:\n{error}"))
            if sim.chaos.cursed is not None:
                sim.chaos.cursed = None
            return function(supervisor, tenant_id, error)

        return handler

    def _observe_return(self, function: Any) -> Any:
        sim = self._sim

        def handler(supervisor: Any, tenant_id: str) -> Any:
            function(supervisor, tenant_id)
            sim.keep(sim.note_return(tenant_id))

        return handler
