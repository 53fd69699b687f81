"""Which workers a ready task run may go to, whose turn it is for, and where it waits: the part of `RunTracker` that makes a `Ready` of it.

A line is where task runs wait, in memory or in Postgres; all that keeps one from a slot and not its neighbour is in its key, so that none
waits behind what cannot run. A task run of a plain step is in the line of its step, for any worker.

A workflow that is sticky keeps a run on one worker: that of a parent, the one the trigger named, or the one that took the run's first task;
until that is known only one task of the run stands in line. Source: behaviour-core 6.3, 6.4.
"""

import json
from collections.abc import Mapping
from typing import Any

from broadaxe_actors.admission import Limit, digest
from broadaxe_actors.lanes import Demand
from broadaxe_actors.matching import Ready
from broadaxe_actors.run import Ended, Run
from broadaxe_actors.run_tracker.places import Places, admissions_of
from broadaxe_actors.task_run import Step, TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_actors.worker_labels import DesiredLabel, desired_labels

HARD = "HARD"
DEMANDS_KEPT = 10_000


class Routing(Places):
    """See the module."""

    def _units_first(self, task: TaskRun, turn: Turn) -> Ready | None:
        """The way of a task run to its batch, if it needs units of rate limits: it stands in line for those alone (behaviour-core 6.15).

        With a worker that could run it, so that nothing is spent while there is none; the batch asks for the slot.
        """
        limits = _limits(task)
        assert task.batching is not None
        if not limits or task.batching.paid_attempt == task.attempt:
            return None
        self._put_in_force(limits, turn)
        key = f"{_key(task.step, None, None, limits)}+batch"
        demand = self._demands.get(key)
        if demand is None:
            spent = tuple((limit.key, limit.units) for limit in limits)
            demand = self._keep(Demand(key, task.step.definition.action, (), limits=spent))
        return Ready(task.id, task.attempt, demand, _lane(task), task.queue_priority, task.seq)

    def _put_in_force(self, limits: tuple[Limit, ...], turn: Turn) -> None:
        """Limits that a task run says itself."""
        for limit in limits:
            if limit.limit is not None:
                turn.limits[limit.key] = (limit.limit, limit.duration_seconds)

    def _keep(self, demand: Demand) -> Demand:
        if len(self._demands) >= DEMANDS_KEPT:
            self._demands.clear()
        self._demands[demand.key] = demand
        return demand

    def _route(self, task: TaskRun, turn: Turn) -> Ready | None:
        """What `TenantQueue` is told of a task run; None if it has to wait for the task by which its run finds a worker."""
        step, run = task.step, task.run
        worker_id = prefers = None
        if step.workflow.sticky is not None:
            desired = _sticky_worker(task)
            if desired is None:
                if run is not None and self._waits_for_scout(run, task):
                    return None
            elif step.workflow.sticky == HARD:
                worker_id = desired
            else:
                prefers = desired
        limits = _limits(task)
        self._put_in_force(limits, turn)
        demand = self._demand(step, worker_id, task.desired_labels, limits)
        return Ready(task.id, task.attempt, demand, _lane(task), task.queue_priority, task.seq, prefers)

    def _demand(
        self, step: Step, worker_id: str | None, labels: str | None, limits: tuple[Limit, ...]
    ) -> Demand:
        if worker_id is None and labels is None and not limits:
            return step.demand
        key = _key(step, worker_id, labels, limits)
        demand = self._demands.get(key)
        if demand is None:
            wanted: tuple[DesiredLabel, ...] = ()
            if worker_id is None:
                wanted = step.demand.labels if labels is None else desired_labels(json.loads(labels))
            spent = tuple((limit.key, limit.units) for limit in limits)
            demand = self._keep(Demand(key, step.definition.action, step.slots, wanted, worker_id, spent))
        return demand

    # ------------------------------------------------------------ lines

    def _find_line(self, task: TaskRun) -> None:
        """Say where a task run is to wait, before it joins there. What cannot be told yet does not count."""
        step = task.step
        if not step.is_routed and task.desired_labels is None:
            return
        self._render_if_quick(task)
        if task.run is not None:
            self._render_if_quick(task.run)
        worker_id = _sticky_worker(task) if step.workflow.sticky == HARD else None
        key = _key(step, worker_id, task.desired_labels, _limits(task))
        lane = _lane(task)
        task.line_key = f"{key}#{digest(lane)}" if lane else key

    def _unrouted(self, task: TaskRun) -> str:
        """What a task run that stood in line did not find."""
        step = task.step
        pools = ", ".join(f"{units} of pool {pool!r}" for pool, units in step.slots)
        found = f"had a free slot ({pools})"
        if step.workflow.sticky is not None:
            worker_id = _sticky_worker(task)
            if step.workflow.sticky == HARD and worker_id is not None:
                how = "was not there" if worker_id in self._workers else "is gone, and never"
                return f"worker {worker_id}, on which its run must stay (sticky HARD), {how} with a free slot ({pools})"
        else:
            labels = json.loads(task.desired_labels) if task.desired_labels else step.definition.worker_labels
            required = shown_labels({key: item for key, item in labels.items() if item.get("required")})
            if required:
                found = f"with {required} {found}"
        if limits := _limits(task):
            units = ", ".join(f"{limit.units} of {limit.key!r}" for limit in limits)
            found += f" while its rate limits had units left ({units})"
        return f"no worker {found}"

    # ------------------------------------------------------------ sticky runs

    def _waits_for_scout(self, run: Run, task: TaskRun) -> bool:
        """A run that has no worker yet sends one task ahead; the others wait to hear where it went."""
        # While the record is read, a task that runs may be among those yet to come.
        if not self._is_restoring and run.scout in (None, task.id):
            run.scout = task.id
            return False
        run.seekers.append((task.id, task.attempt))
        return True

    def _found_worker(self, run: Run, worker_id: str, turn: Turn) -> None:
        """A task of a run is with a worker: if the run is sticky, its others follow."""
        if run.desired_worker_id is None and run.version.definition.sticky is not None:
            run.desired_worker_id = worker_id
            self._let_in(run, turn)

    def _scout_ended(self, run: Run, turn: Turn) -> None:
        """The task that was sent ahead never came to a worker: another goes."""
        run.scout = None
        self._let_in(run, turn)


def _sticky_worker(task: TaskRun) -> str | None:
    """The worker that a task run of a sticky workflow is meant for, if that is known."""
    run = task.run
    if run is None:
        return task.desired_worker_id
    for parent in task.step.plan.parents:
        entry = run.entries[parent]
        if type(entry) is Ended and entry.worker_id is not None:
            return entry.worker_id
    return run.desired_worker_id


def _limits(task: TaskRun) -> tuple[Limit, ...]:
    """What an attempt spends of rate limits, as far as that is told already."""
    admission = task.admission
    return admission.rendered.limits if admission is not None and admission.rendered is not None else ()


def _lane(task: TaskRun) -> str:
    """Equal for task runs that take one turn together: those with the same concurrency keys."""
    parts = [admission.rendered.lane for admission in admissions_of(task) if admission.rendered is not None]
    return "\n".join(part for part in parts if part)


def _key(step: Step, worker_id: str | None, labels: str | None, limits: tuple[Limit, ...]) -> str:
    """The text by which equal demands are known."""
    parts = [step.queue_key]
    if worker_id is not None:
        parts.append(f"@{worker_id}")
    if labels is not None:
        parts.append(f"%{digest(labels)}")
    if limits:
        parts.append(f"${digest(json.dumps([(limit.key, limit.units) for limit in limits]))}")
    return "".join(parts)


def shown_labels(labels: Mapping[str, Any]) -> str:
    """Desired labels as texts have them."""
    return ", ".join(
        f"label {key} {item.get('comparator', 'EQUAL')} {item['value']!r}" for key, item in labels.items()
    )
