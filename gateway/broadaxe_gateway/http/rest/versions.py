"""Versions of workflows as REST needs them: names and ids of steps, read once each, as versions never change."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property

from broadaxe_actors import definitions
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_storage.records import WorkflowVersionRow

MAX_VERSIONS = 1_000
FetchVersion = Callable[[str, str], Awaitable[WorkflowVersionRow | None]]
"""Tenant and version id to the version, None for one that this tenant does not have."""


class Version:
    """One version of a workflow."""

    def __init__(self, row: WorkflowVersionRow) -> None:
        self.row = row

    @cached_property
    def definition(self) -> WorkflowDefinition:
        return definitions.from_json(self.row.definition)

    @property
    def tasks(self) -> tuple[TaskDefinition, ...]:
        return self.definition.all_tasks

    @property
    def workflow_created_at(self) -> int:
        """In microseconds; the workflow's id, a UUIDv7, holds the milliseconds."""
        return int(self.row.workflow_id.replace("-", "")[:12], 16) * 1000

    def step_id(self, index: int) -> str:
        """The id of a task of this version."""
        return definitions.step_id(self.row.id, self.tasks[index].name)

    def children_of(self, index: int) -> list[str]:
        """Step ids of the tasks that name this one as a parent."""
        name = self.tasks[index].name
        return [self.step_id(child) for child, task in enumerate(self.tasks) if name in task.parents]


class Versions:
    """The versions used last, of any tenant: their ids come from rows of the tenant that asks."""

    def __init__(self, fetch_version: FetchVersion) -> None:
        self._fetch_version = fetch_version
        self._known: OrderedDict[str, Version] = OrderedDict()

    async def find(self, tenant_id: str, version_id: str) -> Version | None:
        """None for one that was deleted."""
        known = self._known.get(version_id)
        if known is not None and known.row.tenant_id == tenant_id:
            self._known.move_to_end(version_id)
            return known
        row = await self._fetch_version(tenant_id, version_id)
        return None if row is None else self.keep(row)

    async def find_all(self, tenant_id: str, version_ids: Iterable[str]) -> dict[str, Version]:
        """Those of these that exist, by id."""
        found = {}
        for version_id in set(version_ids):
            version = await self.find(tenant_id, version_id)
            if version is not None:
                found[version_id] = version
        return found

    def keep(self, row: WorkflowVersionRow) -> Version:
        """The version of a row that was read anyway."""
        version = self._known[row.id] = self._known.get(row.id) or Version(row)
        self._known.move_to_end(row.id)
        if len(self._known) > MAX_VERSIONS:
            self._known.popitem(last=False)
        return version
