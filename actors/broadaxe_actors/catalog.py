"""The workflows of a tenant as registered, by name and by version. Pure; held by `RunTracker`.

A new version is made only when the checksum differs from the latest (behaviour-core 4.1.2). Runs stay on their version.
"""

import difflib
from collections.abc import Callable, Iterable

from broadaxe_actors import cel, definitions
from broadaxe_actors.admission import WORKFLOW_LEVEL, make_rules, place_rules
from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import StepRef
from broadaxe_actors.task_run import Step, make_step
from broadaxe_storage.records import WorkflowVersionRow


class Version:
    """One version of a workflow, with its steps ready for use."""

    __slots__ = (
        "checksum",
        "children",
        "created_at",
        "definition",
        "id",
        "idempotency",
        "is_single_task",
        "number",
        "on_failure_index",
        "run_rules",
        "steps",
        "workflow_id",
    )

    def __init__(self, row: WorkflowVersionRow, definition: WorkflowDefinition) -> None:
        self.id = row.id
        self.workflow_id = row.workflow_id
        self.number = row.number
        self.created_at = row.created_at
        self.checksum = row.checksum
        self.definition = definition
        self.steps: tuple[Step, ...] = tuple(
            make_step(
                StepRef(
                    step_id=definitions.step_id(row.id, task.name),
                    action=task.action,
                    task_name=task.name,
                    workflow_id=row.workflow_id,
                    workflow_version_id=row.id,
                ),
                index,
                definition,
            )
            for index, task in enumerate(definition.all_tasks)
        )
        self.is_single_task = definition.is_single_task
        self.run_rules = (
            None
            if self.is_single_task
            else make_rules(place_rules(row.id, definition.concurrency, WORKFLOW_LEVEL), ())
        )
        """What a run of several tasks needs as a whole."""
        self.idempotency = (
            cel.compile(definition.idempotency["expression"], cel.Environment.IDEMPOTENCY_KEY)
            if definition.idempotency is not None
            else None
        )
        self.on_failure_index = len(definition.tasks) if definition.on_failure_task is not None else None
        children: list[list[int]] = [[] for _ in self.steps]
        for step in self.steps:
            for parent in step.plan.parents:
                children[parent].append(step.index)
        self.children: tuple[tuple[int, ...], ...] = tuple(tuple(found) for found in children)
        """By step index: which steps name it as a parent."""


class Catalog:
    """Versions by id, and the latest by workflow name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Version] = {}
        self._by_id: dict[str, Version] = {}
        self._deleted: set[str] = set()
        """Ids of workflows that are deleted, of which versions may be here still: those of live runs."""

    def restore_deleted(self, workflow_ids: Iterable[str]) -> None:
        """Deleted workflows from the record; called before their versions are restored."""
        self._deleted.update(workflow_ids)

    def restore(self, row: WorkflowVersionRow) -> None:
        """A version from the record; the highest number of a name is the latest."""
        version = Version(row, definitions.from_json(row.definition))
        self._by_id[row.id] = version
        if row.workflow_id in self._deleted:
            return
        latest = self._by_name.get(row.name)
        if latest is None or latest.number < row.number:
            self._by_name[row.name] = version

    def put(
        self, tenant_id: str, definition: WorkflowDefinition, new_id: Callable[[int], str], now: int
    ) -> tuple[Version, WorkflowVersionRow | None]:
        """The version for a definition, and its record if it is new. Raises `InvalidDefinition`."""
        definitions.validate(definition)
        checksum = definitions.checksum(definition)
        latest = self._by_name.get(definition.name)
        if latest is not None and latest.checksum == checksum:
            return latest, None
        row = WorkflowVersionRow(
            id=new_id(now),
            workflow_id=latest.workflow_id if latest else new_id(now),
            tenant_id=tenant_id,
            name=definition.name,
            number=latest.number + 1 if latest else 1,
            checksum=checksum,
            definition=definitions.to_json(definition),
            created_at=now,
        )
        version = Version(row, definition)
        self._by_id[row.id] = self._by_name[definition.name] = version
        return version, row

    def version(self, version_id: str) -> Version | None:
        return self._by_id.get(version_id)

    def find(self, name: str) -> Version | None:
        """The version that new runs use; None for an unknown name."""
        return self._by_name.get(name)

    def delete(self, workflow_id: str) -> str | None:
        """Forget a workflow by its name, and return that; None if there is no such workflow. A registration of the name makes another."""
        name = next(
            (name for name, version in self._by_name.items() if version.workflow_id == workflow_id), None
        )
        if name is not None:
            del self._by_name[name]
            self._deleted.add(workflow_id)
        return name

    def is_deleted(self, workflow_id: str) -> bool:
        """Whether a workflow of which there are versions here is no more."""
        return workflow_id in self._deleted

    def latest(self, name: str) -> Version:
        """The version that new runs use. Raises `Refused` for an unknown name, offering the nearest."""
        version = self._by_name.get(name)
        if version is None:
            close = difflib.get_close_matches(name, self._by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"workflow {name!r} is not registered{hint} (a worker registers its workflows when it starts)",
            )
        return version

    def of_workflow(self, workflow_id: str) -> list[Version]:
        """The versions in memory of one workflow; none for an unknown one. One that is deleted has those that live runs may need."""
        return [version for version in self._by_id.values() if version.workflow_id == workflow_id]

    def actions_of_others(self, workflow_id: str, actions: set[str]) -> set[str]:
        """Which of these actions a workflow other than this one has."""
        others = (version for version in self._by_id.values() if version.workflow_id != workflow_id)
        return actions & {step.definition.action for version in others for step in version.steps}

    def step_of(self, action: str) -> Step | None:
        """A step with this action."""
        steps = (step for version in self._by_id.values() for step in version.steps)
        return next((step for step in steps if step.definition.action == action), None)

    def all_latest(self) -> list[Version]:
        return list(self._by_name.values())
