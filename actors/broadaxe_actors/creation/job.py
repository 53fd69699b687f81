"""A trigger on its way: what is known of it by now, stage after stage. Pure."""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from broadaxe_actors.catalog import Version
from broadaxe_actors.claims import ClaimRequest, KeyRequest
from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import IdempotencyCollision, NewRun
from broadaxe_actors.resource_limits import Resource
from broadaxe_actors.runtime import Handle
from broadaxe_actors.timers import TimedStart
from broadaxe_storage.records import EventKeyRow, EventRow, TaskRunRow

if TYPE_CHECKING:
    from broadaxe_actors.run_tracker import RunTracker

INTERNAL_PREFIX = "hatchet__"
"""Keys of the metadata that the engine writes; they are not inherited (behaviour-core 4.4.3)."""


class Start(NamedTuple):
    """A run that an event starts."""

    event: int
    """Its place among the events."""
    workflow: str
    filter: str | None = None
    """The filter by which it does, as `TaskRunRow.filter` has it."""


class EventStart(NamedTuple):
    """What `EventRouter` found: events to store, and which runs each of them starts."""

    events: tuple[EventRow, ...]
    starts: tuple[Start, ...]
    met: tuple[tuple[str, int, int, str], ...] = ()
    """Waits that these events end: task run, attempt, number of the wait, payload as JSON text."""
    new_keys: tuple[str, ...] = ()
    """Keys of these events that were not known."""


class Parent(NamedTuple):
    """What a child needs of its parent."""

    run_id: str
    metadata: str
    may_have_history: bool


class Job:
    """One trigger on its way."""

    def __init__(self, gateway: "Handle[Any]", request_id: int, runs: tuple[NewRun, ...]) -> None:
        self.gateway = gateway
        self.request_id = request_id
        self.runs = runs
        self.is_repeat = False
        self.versions: list[Version] = []
        self.run_ids: list[str] = []
        self.parents: dict[str, Parent] = {}
        self.existing: set[str] = set()
        """Runs that the record has already."""
        self.taken: set[int] = set()
        """Indexes whose spawn key names another run."""
        self.borrowed: list[str] = []
        """Runs that another trigger made, maybe not committed yet."""
        self.claims: list[tuple[int, ClaimRequest]] = []
        self.metadata: dict[int, str] = {}
        """Metadata of children, with what they inherit, by index."""
        self.keys: dict[int, KeyRequest] = {}
        """Idempotency keys by index."""
        self.collisions: list[IdempotencyCollision] = []
        self.left_out: set[int] = set()
        """Indexes of runs that are not created: another run holds their key."""
        self.event_rows: tuple[EventRow, ...] = ()
        self.new_event_keys: tuple[EventKeyRow, ...] = ()
        self.filters: dict[int, str] = {}
        """By index of a run: the filter by which an event starts it."""
        self.met: tuple[tuple[str, int, int, str], ...] = ()
        self.trigger_events: list[EventRow | None] = []
        self.timed: TimedStart | None = None
        """The timer that makes this run: what it says of it is recorded with it."""
        self.reply: object = None
        self.taken_of_limits: dict[Resource, int] = {}
        """What is counted for it, should the tenant have limits."""
        self.offset = 0
        self.rows: list[TaskRunRow] = []
        self.created: list[str] = []
        self.spilled = 0
        self.spilled_lines: set[tuple[str, int]] = set()
        """Lines that some of them wait in."""

    def metadata_of(self, index: int) -> str:
        """The metadata of one run, with what a child inherits."""
        run = self.runs[index]
        if run.parent_task_run_id is None:
            return run.metadata
        found = self.metadata.get(index)
        if found is None:
            parent = self.parents[run.parent_task_run_id]
            found = self.metadata[index] = _child_metadata(run.metadata, parent, run.parent_task_run_id)
        return found


class Stage:
    """Base of the parts of `Creation`: the tracker that they record and send through, and the triggers on their way."""

    def __init__(self, tracker: "RunTracker") -> None:
        self._t = tracker
        self._jobs: dict[int, Job] = {}
        self._repeats: dict[int, Job] = {}
        """Those that are repeated."""
        self._next_job = 0

    def _add(self, job: Job) -> int:
        self._next_job += 1
        self._jobs[self._next_job] = job
        if job.is_repeat:
            self._repeats[self._next_job] = job
        return self._next_job

    def _drop(self, number: int) -> Job:
        self._repeats.pop(number, None)
        return self._jobs.pop(number)

    def _new_id(self) -> str:
        return self._t.rng.uuid7(self._t.clock.now())

    def _take(self, job: Job) -> None:
        """Count what a trigger is to make. Raises `Refused` past a limit of the tenant."""
        usage = self._t._usage
        if usage:
            wanted = {
                Resource.EVENT: len(job.event_rows),
                Resource.TASK_RUN: sum(len(version.definition.tasks) for version in job.versions),
            }
            usage.take(wanted, self._t.clock.now())
            job.taken_of_limits = wanted

    def _settle_taken(self, job: Job) -> None:
        """Of what was counted, only what was made stays counted."""
        if job.taken_of_limits:
            tasks = {version.id: len(version.definition.tasks) for version in job.versions}
            made = sum(tasks[row.workflow_version_id] for row in job.rows if row.id == row.run_id)
            unused = {Resource.TASK_RUN: job.taken_of_limits[Resource.TASK_RUN] - made}
            self._t._usage.give_back(unused, self._t.clock.now())

    def _reply(self, job: Job, value: object) -> None:
        self._t._reply(job.gateway, job.request_id, value)

    def _refuse(self, job: Job, refused: Refused) -> None:
        if job.event_rows and not job.rows:
            self._t._router.committed.send(tuple(row.id for row in job.event_rows))
        self._t._usage.give_back(job.taken_of_limits, self._t.clock.now())
        self._t._refuse(job.gateway, job.request_id, refused)


def _child_metadata(own: str, parent: Parent, parent_task_run_id: str) -> str:
    """The parent's keys, then the child's own, then who spawned it (behaviour-core 4.4.3)."""
    merged = {
        key: value
        for key, value in json.loads(parent.metadata).items()
        if not key.startswith(INTERNAL_PREFIX) and key != "traceparent"
    }
    merged.update(json.loads(own))
    merged["hatchet__parent_workflow_run_id"] = parent.run_id
    merged["hatchet__parent_step_run_id"] = parent_task_run_id
    return json.dumps(merged, separators=(",", ":"))
