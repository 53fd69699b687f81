"""Batch tasks, from ready to assigned: the part of `RunTracker` that has task runs join their groups, and takes batches that start.

A ready task run of a batch task goes to the `BatchBuffer` of its step and group key instead of to `TenantQueue`; its state stays QUEUED.
The key is evaluated once in a life, when the task run is first ready, and after a restart again. A batch that starts comes as a `Draw`;
from then on each member is an attempt like any other, but for the slot, which is the batch's.
"""

from collections.abc import Sequence

from broadaxe_actors import cel
from broadaxe_actors.batches import TICKET, BatchKey, Draw, KeyWork, RunningBatch
from broadaxe_actors.run_tracker.places import shown
from broadaxe_actors.run_tracker.progress import Progress
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.records import TaskEventKind, TaskRunState

S = TaskRunState
SLICE = 50
"""Task runs that join their groups in one turn: each may have to be parsed for its key."""
APART = 50
"""Keys evaluated outside of this process at a time, one after the other."""


Found = tuple[KeyWork, str | cel.CelError]
"""The group key, or why there is none."""


class Batches(Progress):
    """See the module."""

    # ------------------------------------------------------------ to the buffers

    def _progress(self, turn: Turn) -> None:
        if self._batches.has_work and not self._is_restoring:
            self._group(turn)
            self._evaluate_next()
        super()._progress(turn)

    def _group(self, turn: Turn) -> None:
        """Have ready task runs join their groups, but first tell those of batches that run."""
        batches = self._batches
        left = SLICE
        while left and batches.to_count:
            left -= 1
            batch = batches.to_count.popleft()
            if batch.members:
                self._find_group(next(iter(batch.members.values())), batch, turn)
        if batches.uncounted:
            return  # `groups_evaluated` goes on
        while left and batches.to_group:
            left -= 1
            task_run_id, attempt = batches.to_group.popleft()
            task = self._live.get(task_run_id)
            if task is None or task.state != S.QUEUED or task.attempt != attempt:
                continue
            assert task.batching is not None
            if task.batching.key is None:
                self._find_group(task, None, turn)
            else:
                self._join_group(task, task.batching.key, turn)
        if batches.has_work:
            self.me.group_more.send()

    def group_more(self) -> None:
        """More task runs have yet to join their groups."""
        self._close(Turn())

    def _find_group(self, task: TaskRun, batch: RunningBatch | None, turn: Turn) -> None:
        """Evaluate the key of a task run, here if that is quick."""
        self._at = task.id
        assert task.step.batch is not None
        batch_id = batch.id if batch is not None else None
        values: dict[str, bytes | str] = {
            "input": task.input or b"{}",
            "additional_metadata": task.metadata,
            "workflow_run_id": task.id,
        }
        found: str | cel.CelError
        try:
            expression = cel.compile(task.step.batch.group_key, cel.Environment.BATCH_GROUP_KEY)
            if not expression.is_cheap(values):
                work = KeyWork(task.id, task.attempt, batch_id, expression, values)
                self._batches.to_evaluate.append(work)
                if batch_id is not None:
                    self._batches.uncounted.add(batch_id)
                return
            found = str(expression.evaluate(values))
        except cel.CelError as error:
            # That it does not compile is possible for a definition of before expressions were checked at registration.
            found = error
        self._found_group(task.id, task.attempt, batch_id, found, turn)

    def _found_group(
        self, task_run_id: str, attempt: int, batch_id: str | None, found: str | cel.CelError, turn: Turn
    ) -> None:
        if batch_id is not None:
            self._batches.uncounted.discard(batch_id)
            batch = self._batches.running.get(batch_id)
            if batch is not None and isinstance(found, str):
                self._count_batch(batch, found, turn)
            return
        task = self._live.get(task_run_id)
        if task is None or task.attempt != attempt or task.state != S.QUEUED:
            return
        self._at = task.id
        assert task.batching is not None
        if isinstance(found, str):
            task.batching.key = BatchKey(task.step.ref.step_id, found)
            self._join_group(task, task.batching.key, turn)
        else:
            self._fail_to_group(task, found, turn)

    def _count_batch(self, batch: RunningBatch, group: str, turn: Turn) -> None:
        """The group of a batch that a worker was found to hold is known: it runs no more at a time than it may."""
        step = next(iter(batch.members.values())).step
        batch.key = BatchKey(step.ref.step_id, group)
        turn.of_groups().running.setdefault(batch.key, []).append(batch.id)

    def _join_group(self, task: TaskRun, key: BatchKey, turn: Turn) -> None:
        batching, rules = task.batching, task.step.batch
        assert batching is not None
        assert rules is not None
        if batching.is_buffered:
            return
        batching.is_buffered = True
        turn.of_groups().joined.setdefault(key, (rules, []))[1].append(task.member())
        if batching.noted_attempt != task.attempt:
            batching.noted_attempt = task.attempt
            self._note(task, TaskEventKind.WAITING_FOR_BATCH, f"group key {shown(key.group)}".encode())

    def _fail_to_group(self, task: TaskRun, cause: cel.CelError, turn: Turn) -> None:
        """Without a key there is no group to wait in: the task run fails at once, and is not retried (behaviour-core 6.15)."""
        error = f"task {task.step.ref.task_name!r} has no batch group key: {cause}"
        self._fail_for_good(task, error.encode(), turn)

    def _evaluate_next(self) -> None:
        if not self._batches.is_evaluating and self._batches.to_evaluate:
            self._batches.is_evaluating = True
            work = [
                self._batches.to_evaluate.popleft() for _ in range(min(APART, len(self._batches.to_evaluate)))
            ]
            self.fetch(self._evaluate_groups, work, then=self.me.groups_evaluated)

    async def _evaluate_groups(self, work: Sequence[KeyWork]) -> list[Found]:
        """Each key, or the error in its place."""
        found: list[Found] = []
        for item in work:
            try:
                key = await self._evaluator.evaluate_apart(item.expression, item.values)
            except cel.EvaluationFailed as error:
                found.append((item, error))
            else:
                found.append((item, str(key)))
        return found

    def groups_evaluated(
        self, _context: object, found: list[Found] | None, error: BaseException | None
    ) -> None:
        """Keys that were evaluated outside of this process."""
        if error is not None:
            raise error
        assert found is not None
        self._batches.is_evaluating = False
        turn = Turn()
        for item, key in found:
            self._found_group(item.task_run_id, item.attempt, item.batch_id, key, turn)
        self._evaluate_next()
        self._close(turn)

    def _tell_waits(self, turn: Turn) -> None:
        super()._tell_waits(turn)
        news = turn.groups
        if news is None:
            return
        send = self._buffers.send
        for key, left in news.left.items():
            send(key, "leave", tuple(left))
        for key, running in news.running.items():
            send(key, "running", tuple(running))
        for key, over in news.over.items():
            send(key, "ended", tuple(over))
        for key, (rules, members) in news.joined.items():
            send(key, "add", rules, tuple(members))

    # ------------------------------------------------------------ batches that start

    def start_batch(self, draw: Draw) -> None:
        """`BatchBuffer` has a slot for a batch: assign the members that still wait, or give it back."""
        turn = Turn()
        tasks = [
            task
            for member in draw.members
            if (task := self._live.get(member.task_run_id)) is not None
            and task.state == S.QUEUED
            and task.attempt == member.attempt
        ]
        for task in tasks:
            assert task.batching is not None
            task.batching.is_buffered = False
        is_paused = bool(self._pauses and tasks) and self._is_paused(tasks[0])
        if not tasks or is_paused or draw.worker_id not in self._workers:
            for task in tasks:
                self._line_up(task, turn)
            turn.freed.append((draw.worker_id, draw.batch_id, TICKET))
            turn.of_groups().over.setdefault(draw.key, []).append(draw.batch_id)
            self._close(turn)
            return
        now = self.clock.now()
        batch = self._batches.running[draw.batch_id] = RunningBatch(
            draw.batch_id, draw.worker_id, draw.key, now, draw.reason
        )
        text = f"batch {batch.id} of {len(tasks):,}: {draw.reason}".encode()
        for task in tasks:
            self._at = task.id
            self._assign(task, draw.worker_id, now, turn)
            batch.join(task)
            if task.step.is_gated:
                self._record_start(task)
            else:
                self._save_soon(task)
            self._note(task, TaskEventKind.BATCH_FLUSHED, text)
            self._telemetry.observe_queue(
                self._tenant_id, task.step.workflow.name, (now - task.queued_at) / 1e6
            )
        if tasks[0].step.is_gated:
            turn.batches_to_start.append(batch.id)
        else:
            turn.batches.setdefault(draw.worker_id, []).append(batch.start())
        self._telemetry.count("assigned_tasks", self._tenant_id, len(tasks))
        self._telemetry.count("queued_to_assigned", self._tenant_id, len(tasks))
        self._telemetry.count("queue_invocations", self._tenant_id)
        self._close(turn)

    def batches_committed(self, batch_ids: tuple[str, ...]) -> None:
        """As `start_committed`, of batches: with those members that are still in it."""
        turn = Turn()
        for batch_id in batch_ids:
            batch = self._batches.running.get(batch_id)
            if batch is None:
                continue
            if batch.worker_id in self._workers:
                turn.batches.setdefault(batch.worker_id, []).append(batch.start())
            else:
                for task in list(batch.members.values()):
                    self._reassign(task, turn, f"worker {batch.worker_id} has left")
        self._close(turn)

    # ------------------------------------------------------------ batches that are found with a worker

    def _rejoin_batch(self, task: TaskRun, batch_id: str) -> None:
        """From the record: an attempt is held by a batch."""
        assert task.worker_id is not None
        batch = self._batches.running.get(batch_id)
        if batch is None:
            at = task.assigned_at or self.clock.now()
            batch = RunningBatch(batch_id, task.worker_id, None, at, "held since before the engine restarted")
            self._batches.running[batch_id] = batch
            self._batches.to_count.append(batch)
        batch.join(task)

    def _join_unknown_batch(self, task: TaskRun, worker_id: str, turn: Turn) -> None:
        """A worker holds an attempt by a batch whose start was lost in a crash. What it tells at once of one group is one batch."""
        assert task.batching is not None
        at_worker = (worker_id, task.batching.key or BatchKey(task.step.ref.step_id, ""))
        batch = turn.of_groups().adopted.get(at_worker)
        if batch is None:
            now = self.clock.now()
            batch = RunningBatch(
                self.rng.uuid7(now), worker_id, None, now, "told by its worker", is_adopted=True
            )
            turn.of_groups().adopted[at_worker] = self._batches.running[batch.id] = batch
            self._batches.to_count.append(batch)
        batch.join(task)
