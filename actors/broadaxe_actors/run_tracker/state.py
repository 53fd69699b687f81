"""What `RunTracker` holds, and what each of its parts does with it: records, deadlines, look-ups, answers.

A handler collects what it has to say in a `Turn`, so that a batch of reports makes one message to each neighbour; `_close` lets it out.
"""

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from broadaxe_actors.admission import GroupKey, Seeking
from broadaxe_actors.batches import BATCH_SLOTS, TICKET, BatchBook, BatchKey, RunningBatch
from broadaxe_actors.catalog import Catalog, Version
from broadaxe_actors.cel import Evaluator, InlineEvaluator
from broadaxe_actors.creation import Creation
from broadaxe_actors.deadlines import Deadlines
from broadaxe_actors.errors import Code, EngineBug, Refused
from broadaxe_actors.flow_counts import FlowCounts
from broadaxe_actors.followers import RecentResults, Subscriptions, Watchers
from broadaxe_actors.lanes import Demand
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    Refusal,
    Reply,
    RunEvent,
    RunEventKind,
    RunEvents,
)
from broadaxe_actors.pauses import Pause
from broadaxe_actors.resource_limits import Resource, Usage
from broadaxe_actors.run import Run
from broadaxe_actors.runtime import Actor, Directory, Handle
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.spill import SpillLedger
from broadaxe_actors.task_counts import TaskCounts
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    FinishedTaskRun,
    TaskEventKind,
    TaskEventRow,
    TaskRunRow,
    TaskRunState,
)
from broadaxe_storage.store import ShardStore

S = TaskRunState
SAVE_HOLD_US = 25_000
Row = TypeVar("Row", TaskRunRow, FinishedTaskRun)


class TrackerState(Actor):
    """The live runs of a tenant in memory; the base of the tracker's parts."""

    _queue: Handle[Any]
    _claims: Handle[Any]
    _router: Handle[Any]
    _buffers: Directory[BatchKey]
    _groups: Directory[GroupKey]
    _buckets: Directory[str]

    def __init__(  # noqa: PLR0915 - one line for each thing it holds
        self,
        tenant_id: str,
        store: ShardStore,
        settings: ShardSettings,
        telemetry: Telemetry,
        evaluator: Evaluator | InlineEvaluator | None = None,
    ) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._evaluator = evaluator or InlineEvaluator()
        self._supervisor: Handle[Any] | None = None
        self._workers: dict[str, Handle[Any]] = {}
        self._catalog = Catalog()
        self._live: dict[str, TaskRun] = {}
        """Task runs in memory that have not ended."""
        self._runs: dict[str, Run] = {}
        """Runs of several tasks in memory."""
        self._seeking = Seeking()
        self._demands: dict[str, Demand] = {}
        """Demands of task runs for which their step's does not say all, by key."""
        self._settled: dict[str, Run] = {}
        """By id of a task run that has ended: its run, which has not."""
        self._to_progress: deque[tuple[Run, int, int]] = deque()
        """Run, step that ended, child that has yet to hear of it (`progress.AFTERWARDS` for what comes after the children)."""
        self._is_restoring = False
        """Until all that the record knows is in memory nothing follows from the end of a task run."""
        self._batches = BatchBook()
        self._deadlines = Deadlines()
        self._overdue: deque[str] = deque()
        """Task runs whose deadlines have passed, and that have yet to be looked at."""
        self._pauses: dict[str, Pause] = {}
        """By workflow: those that are paused, or were until lately."""
        self._armed: int | None = None
        self._ledger = SpillLedger(settings.queue_window_high, settings.queue_window_low, settings.queue_page)
        self._uncommitted_spills = 0
        self._spill_commits = 0
        """How often task runs that wait in Postgres were committed: a page read before the last of these does not know all."""
        self._held_back: dict[tuple[str, int], dict[str, TaskRun]] = {}
        """By line: task runs in memory that came after others that wait in Postgres."""
        self._spilled_due: int | None = None
        self._parents_with_children: set[str] = set()
        self._seq = 0
        self._watchers = Watchers()
        self._recent = RecentResults()
        self._subscriptions = Subscriptions()
        self._counts = TaskCounts()
        """Who waits and who runs, for task stats."""
        self._flows = FlowCounts()
        """Likewise who waits for places of concurrency groups, and who holds them."""
        self._reads: dict[int, set[str]] = {}
        """For each read of runs to be cancelled or replayed that is under way: the runs whose end it may not have seen."""
        self._logged: dict[str, int] = {}
        """By task run: log lines so far, those that logged lately last."""
        self._look_ups: dict[str, None] = {}
        self._is_looking_up = False
        self._usage = Usage(settings.limits, tenant_id, Resource.EVENT, Resource.TASK_RUN)
        self._creation = Creation(self)  # type: ignore[arg-type]  # the tracker as a whole is built on this
        self._unsaved: dict[str, int] = {}
        """Task runs whose assignment or start is not recorded yet, and since when, oldest first."""
        self._at: str | None = None
        """The task run being worked on, for the supervisor if this handler raises."""

    # ------------------------------------------------------------ assignments and starts, recorded when they last

    def _save_soon(self, task: TaskRun) -> None:
        """Record this transition unless the attempt ends within `SAVE_HOLD_US`: its end then says all.

        Nobody waits for an assignment to be durable. A crash loses at most those not yet recorded: their task runs are
        queued again under the same attempt, and a worker that holds one says so, or its report is taken.
        """
        if not self._unsaved:
            self.set_timer("save", SAVE_HOLD_US, self.me.save)
        self._unsaved.setdefault(task.id, self.clock.monotonic())

    def _save(self, task: TaskRun) -> None:
        self._unsaved.pop(task.id, None)
        self.record(task.update_record(self._tenant_id))

    def save(self) -> None:
        """Record assignments and starts that have lasted."""
        now = self.clock.monotonic()
        for task_run_id, since in list(self._unsaved.items()):
            if now - since < SAVE_HOLD_US:
                self.set_timer("save", max(1_000, since + SAVE_HOLD_US - now), self.me.save)
                break
            self._save(self._live[task_run_id])

    def save_all(self) -> None:
        """The server is about to stop: record them all."""
        for task_run_id in list(self._unsaved):
            self._save(self._live[task_run_id])

    def next_seq(self) -> int:
        """A place at the end of every line."""
        self._seq += 1
        return self._seq

    # ------------------------------------------------------------ what is known

    def _is_live(self, run_id: str) -> bool:
        """Whether a run is in memory and has not ended."""
        return run_id in self._live or run_id in self._runs

    def _has_ended(self, task_run_id: str) -> bool:
        """Whether memory knows that a task run has ended."""
        if task_run_id in self._settled or self._recent.of_task_run(task_run_id) is not None:
            return True
        return self._recent.has_ended(task_run_id)

    def _is_known(self, task_run_id: str) -> bool:
        return task_run_id in self._live or self._has_ended(task_run_id)

    def _version_of(self, row: TaskRunRow) -> Version:
        version = self._catalog.version(row.workflow_version_id)
        if version is None:
            raise EngineBug(
                f"task run {row.id} names workflow version {row.workflow_version_id}, which the record does not have"
            )
        return version

    # ------------------------------------------------------------ deadlines

    def _set_deadline(self, task: TaskRun, deadline: int | None) -> None:
        if deadline is None:
            self._deadlines.drop(task.id)
        else:
            self._deadlines.set(task.id, deadline)

    def _arm(self) -> None:
        due = self._deadlines.next_due()
        if self._spilled_due is not None and (due is None or self._spilled_due < due):
            due = self._spilled_due
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self.set_timer("due", max(0, due - self.clock.now()), self.me.due)

    def note_spilled_deadline(self, deadline: int | None) -> None:
        """A task run that waits in Postgres has this schedule deadline."""
        if deadline is not None and (self._spilled_due is None or deadline < self._spilled_due):
            self._spilled_due = deadline
            self._arm()

    # ------------------------------------------------------------ who follows

    def _tell(self, task: TaskRun, kind: RunEventKind, payload: bytes, turn: Turn) -> None:
        event = RunEvent(task.run_id, False, task.id, kind, self.clock.now(), payload, task.attempt)
        self._send_event(task.metadata, event, turn)

    def _tell_run(self, run_id: str, metadata: str, kind: RunEventKind, turn: Turn) -> None:
        self._send_event(metadata, RunEvent(run_id, True, run_id, kind, self.clock.now()), turn)

    def _send_event(self, metadata_text: str, event: RunEvent, turn: Turn) -> None:
        metadata = json.loads(metadata_text) if self._subscriptions.follows_metadata() else None
        for subscription in list(self._subscriptions.of(event.run_id, metadata)):
            is_last = self._subscriptions.saw(subscription, event)
            turn.deliver_after(
                subscription.gateway, RunEvents(subscription.subscription_id, (event,), is_last)
            )
            if is_last:
                self._subscriptions.remove(subscription.gateway, subscription.subscription_id)

    # ------------------------------------------------------------ look-ups

    async def _load_live(self, ids: list[str]) -> list[TaskRunRow]:
        """Live rows by id of a task run or run; what belongs to a run of several tasks comes with all rows of that run."""
        return await self._load_whole(self._store.fetch_live, ids)

    async def _load_whole(
        self, fetch: Callable[[str, list[str]], Awaitable[list[Row]]], ids: list[str]
    ) -> list[Row]:
        rows = await fetch(self._tenant_id, ids)
        found = {row.id for row in rows}
        missing = sorted({row.run_id for row in rows} - found)
        if missing:
            rows += [row for row in await fetch(self._tenant_id, missing) if row.id not in found]
        return rows

    async def _load_any(self, ids: list[str]) -> tuple[list[TaskRunRow], list[FinishedTaskRun]]:
        live = await self._load_live(ids)
        return live, await self._load_finished(ids)

    async def _load_finished(self, ids: list[str]) -> list[FinishedTaskRun]:
        """Ended rows by id of a task run or run; what belongs to a run of several tasks comes with all rows of that run."""
        rows = await self._load_whole(self._store.fetch_finished, ids)
        for version_id in dict.fromkeys(row.workflow_version_id for row in rows):
            # Runs of a version that is neither the latest nor live: its task names are needed for their results.
            if self._catalog.version(version_id) is None:
                version = await self._store.fetch_version(self._tenant_id, version_id)
                if version is not None:
                    self._catalog.restore(version)
        return rows

    # ------------------------------------------------------------ small records

    def _event(self, task: TaskRun, kind: TaskEventKind, message: bytes) -> None:
        """Write down an attempt that does not stay in the task run's row, with what ended it."""
        self._note_attempt(task, kind, self.clock.now(), message)

    def _note_attempt(
        self, held: TaskRun | FinishedTaskRun, kind: TaskEventKind, ended_at: int | None, message: bytes
    ) -> None:
        for event_kind, at, text in (
            (TaskEventKind.QUEUED, held.queued_at, b""),
            (TaskEventKind.ASSIGNED, held.assigned_at, b""),
            (TaskEventKind.STARTED, held.started_at, b""),
            (kind, ended_at, message),
        ):
            if at is not None:
                self.record(
                    TaskEventRow(self._tenant_id, held.id, held.attempt, event_kind, at, held.worker_id, text)
                )

    def _note(self, task: TaskRun, kind: TaskEventKind, message: bytes) -> None:
        """Write down what happened to a task run besides what its row tells."""
        self.record(
            TaskEventRow(
                self._tenant_id, task.id, task.attempt, kind, self.clock.now(), task.worker_id, message
            )
        )

    # ------------------------------------------------------------ answers

    def _reply(self, gateway: "Handle[Any]", request_id: int, value: object) -> None:
        if request_id:
            self.send_after_commit(gateway.deliver, (Reply(request_id, value),))

    def _refuse_while_away(self, gateway: "Handle[Any]", request_id: int, error: BaseException) -> None:
        """Answer a read that Postgres could not serve; an error of any other kind is ours, and raised."""
        if not isinstance(error, Unavailable):
            raise error
        self._refuse(gateway, request_id, Refused(Code.UNAVAILABLE, str(error)))

    def _refuse(self, gateway: "Handle[Any]", request_id: int, refused: Refused) -> None:
        if request_id:
            refusal = Refusal(request_id, refused.code, refused.message, refused.detail)  # type: ignore[arg-type]  # ours are of these types
            self.send_after_commit(gateway.deliver, (refusal,))

    # ------------------------------------------------------------ the end of a handler

    def _progress(self, turn: Turn) -> None:
        """Draw the consequences of task runs that have ended: `progress.Progress` does; and have task runs join groups: `batching`."""

    def _close(self, turn: Turn) -> None:
        """Let out what a handler has collected."""
        if self._to_progress or self._batches.has_work:
            self._progress(turn)
        if turn.first:
            self._queue.put_back.send(tuple(turn.first))
        if turn.ready:
            self._queue.enqueue.send(tuple(turn.ready))
        if turn.unspent:
            self._queue.unspent.send(tuple(turn.unspent))
        if turn.freed:
            self._queue.release.send(tuple(turn.freed))
        self._tell_workers(turn)
        self._tell_self(turn)
        for gateway, messages in turn.deliveries_after.items():
            self.send_after_commit(gateway.deliver, tuple(messages))
        if turn.ended_parents:
            self._claims.forget.send(tuple(turn.ended_parents))
        if turn.waits or turn.waits_over or turn.groups:
            self._tell_waits(turn)
        if turn.asks or turn.places_left or turn.places_held or turn.limits:
            self._tell_groups(turn)
        self._arm()
        self._at = None

    def _tell_self(self, turn: Turn) -> None:
        """What goes on once this is committed."""
        if turn.to_start:
            self.send_after_commit(self.me.start_committed, tuple(turn.to_start))
        if turn.batches_to_start:
            self.send_after_commit(self.me.batches_committed, tuple(turn.batches_to_start))
        if turn.queued:
            self.send_after_commit(self.me.queued, tuple(turn.queued))
        if turn.ended:
            self.send_after_commit(self.me.ended_committed, tuple(turn.ended))

    def _tell_groups(self, turn: Turn) -> None:
        """Ask for places, give them up, and put limits in force: `places.Places` does."""

    def _tell_waits(self, turn: Turn) -> None:
        if turn.waits:
            self._router.add_waits.send(tuple(turn.waits))
        if turn.waits_over:
            self._router.drop_waits.send(tuple(turn.waits_over))

    def _tell_held(self, held: list[TaskRun]) -> None:
        batches = {task.batch.id: task.batch for task in held if task.batch is not None}
        slots = [
            (task.worker_id, task.id, task.attempt, task.step.slots)
            for task in held
            if task.batch is None and not task.is_slot_released
        ]
        slots += [
            (batch.worker_id, batch.id, TICKET, BATCH_SLOTS) for batch in batches.values() if batch.holding
        ]
        self._queue.hold.send(tuple(slots))
        if self._is_restoring:
            # As wholes, once all members are known: what is sent again must not be parts.
            self._batches.restored.update(batches)
        else:
            self._tell_held_batches(batches.values())
        by_worker: dict[str, list[tuple[Assignment, bool]]] = {}
        for task in held:
            if task.batch is not None:
                continue
            assert task.worker_id is not None
            by_worker.setdefault(task.worker_id, []).append((task.assignment(), task.state == S.RUNNING))
        for worker_id, assignments in by_worker.items():
            self._to_worker(worker_id, "holds", tuple(assignments))

    def _tell_held_batches(self, batches: Iterable[RunningBatch]) -> None:
        by_worker: dict[str, list[tuple[BatchStart, bool]]] = {}
        for batch in batches:
            is_started = batch.is_adopted or any(task.state == S.RUNNING for task in batch.members.values())
            by_worker.setdefault(batch.worker_id, []).append((batch.start(), is_started))
        for worker_id, starts in by_worker.items():
            self._to_worker(worker_id, "holds_batches", tuple(starts))

    def _tell_workers(self, turn: Turn) -> None:
        if turn.held:
            self._tell_held(turn.held)
        for method, by_worker in (
            ("started", turn.started),
            ("done", turn.done),
            ("start_tasks", turn.starts),
            ("start_batches", turn.batches),
        ):
            for worker_id, items in by_worker.items():
                self._to_worker(worker_id, method, tuple(items))
        for worker_id, orders in turn.cancels.items():
            worker = self._workers.get(worker_id)
            if worker is not None:
                # After the commit: were the end of the attempt lost in a crash, nobody would run it.
                self.send_after_commit(worker.cancel, tuple(orders))

    def _to_worker(self, worker_id: str, method: str, items: tuple[Any, ...]) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            getattr(worker, method).send(items)

    def on_failure(self, *_args: object) -> None:
        """Tell the supervisor which task run was being worked on when a handler raised."""
        if self._supervisor is not None:
            self._supervisor.crashed_at.send(self._tenant_id, self._at)
