"""Event filters: which runs of a workflow an event starts, and what those are given. Pure; held by `EventRouter`.

Source: behaviour-core 5.3. A workflow without filters is started once by an event. One with any is started once for each of its filters
that has the event's scope and is true; an empty expression never is. Of filters of one workflow that are alike in everything one counts.
"""

import json
from collections.abc import Iterator
from typing import Any

from broadaxe_actors import cel
from broadaxe_storage.records import FilterRow

ID_CHARACTERS = 36
_BEFORE_PAYLOAD = len('{"id":"') + ID_CHARACTERS + len('","payload":')


def payload_text(payload: Any) -> str:
    """A filter's payload as it is stored: equal for equal objects."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def run_filter(row: FilterRow) -> str:
    """What a run that the filter starts keeps of it: JSON text with id and payload."""
    return f'{{"id":"{row.id}","payload":{row.payload}}}'


def payload_of(run_filter_text: str) -> str:
    """The payload in what a run keeps of its filter, as JSON text."""
    return run_filter_text[_BEFORE_PAYLOAD:-1]


class Filter:
    """A filter in memory. Its expression is compiled when it is first needed."""

    __slots__ = ("_expression", "has_failed", "row")

    def __init__(self, row: FilterRow) -> None:
        self.row = row
        self._expression: cel.Expression | None = None
        self.has_failed = False
        """It could not be evaluated once, and the log has said so."""

    @property
    def never_matches(self) -> bool:
        return not self.row.expression.strip()

    @property
    def expression(self) -> cel.Expression:
        """Raises `cel.InvalidExpression`."""
        if self._expression is None:
            self._expression = cel.compile(self.row.expression, cel.Environment.EVENT_FILTER)
        return self._expression


def _content(row: FilterRow) -> tuple[str, str]:
    return row.expression, row.payload


class Filters:
    """The filters of a tenant."""

    def __init__(self) -> None:
        self._by_id: dict[str, Filter] = {}
        self._by_workflow: dict[str, dict[str, dict[str, Filter]]] = {}
        """By workflow, scope and id, in the order in which they came."""

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, filter_id: str) -> FilterRow | None:
        found = self._by_id.get(filter_id)
        return found.row if found is not None else None

    def put(self, row: FilterRow) -> None:
        """Add a filter, or replace the one of its id."""
        self.drop(row.id)
        kept = self._by_id[row.id] = Filter(row)
        self._by_workflow.setdefault(row.workflow_id, {}).setdefault(row.scope, {})[row.id] = kept

    def drop(self, filter_id: str) -> None:
        """Forget a filter; unknown is fine."""
        found = self._by_id.pop(filter_id, None)
        if found is None:
            return
        scopes = self._by_workflow[found.row.workflow_id]
        del scopes[found.row.scope][filter_id]
        if not scopes[found.row.scope]:
            del scopes[found.row.scope]
        if not scopes:
            del self._by_workflow[found.row.workflow_id]

    def drop_all(self, workflow_id: str, *, only_declarative: bool) -> None:
        """Forget filters of a workflow."""
        for kept in list(self._of(workflow_id)):
            if kept.row.is_declarative or not only_declarative:
                self.drop(kept.row.id)

    def has_any(self, workflow_id: str) -> bool:
        """Whether events start a workflow by its filters alone."""
        return workflow_id in self._by_workflow

    def of_scope(self, workflow_id: str, scope: str) -> list[Filter]:
        """The filters that count for events of a scope, of equal ones the first."""
        found: dict[tuple[str, str], Filter] = {}
        for kept in self._by_workflow.get(workflow_id, {}).get(scope, {}).values():
            found.setdefault(_content(kept.row), kept)
        return list(found.values())

    def twin_of(self, row: FilterRow) -> FilterRow | None:
        """Another filter of the workflow that is alike in scope, expression and payload."""
        for kept in self._by_workflow.get(row.workflow_id, {}).get(row.scope, {}).values():
            if kept.row.id != row.id and _content(kept.row) == _content(row):
                return kept.row
        return None

    def _of(self, workflow_id: str) -> Iterator[Filter]:
        for by_id in self._by_workflow.get(workflow_id, {}).values():
            yield from by_id.values()
