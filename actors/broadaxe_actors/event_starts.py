"""What an event starts: the part of `EventRouter` that finds the workflows and asks their filters.

A push is decided before anything of it is recorded, so that events and the runs that they start commit together. Expressions that may take
long are evaluated apart, and long lists in slices: other events pass meanwhile. An event counts as come when it is decided. What cannot
be evaluated counts as false; the event says so (`EventRow.filter_errors`), and the log does once for each filter.
"""

import json
import logging
from collections import deque
from typing import Any, NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.creation import Start
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.event_filters import Filter, Filters, run_filter
from broadaxe_actors.event_patterns import EventPatterns
from broadaxe_actors.messages import (
    CreateFilter,
    DeleteFilter,
    EvaluateFilter,
    FilterEvaluated,
    NewEvent,
    PushEvents,
    Refusal,
    Reply,
    UpdateFilter,
)
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.records import FilterDrop, FilterRow

logger = logging.getLogger(__name__)

JUDGED = 200
"""Filters asked in one turn."""
APART = 16
"""Pushes of which filters are evaluated apart at a time; further ones wait."""
ERRORS_KEPT = 20
"""Of the filters that could not be evaluated on one event."""
ERROR_CHARACTERS = 500


class _Question(NamedTuple):
    """Whether a filter starts a run."""

    event: int
    workflow_id: str
    filter: Filter


class Push:
    """Events that were pushed together, while it is found out what they start."""

    def __init__(self, gateway: "Handle[Any]", message: PushEvents, ids: tuple[str, ...]) -> None:
        self.gateway = gateway
        self.message = message
        self.ids = ids
        self.starts: list[Start] = []
        self.open: deque[_Question] = deque()
        self.apart: list[_Question] = []
        self.errors: dict[int, list[dict[str, str]]] = {}
        """By event."""
        self._at: tuple[int, dict[str, Any]] | None = None

    def values(self, question: _Question) -> dict[str, Any]:
        """What an expression may read; an event is parsed once, however many filters ask."""
        if self._at is None or self._at[0] != question.event:
            event: NewEvent = self.message.events[question.event]
            values = {
                "input": cel.Document(event.payload or b"{}"),
                "additional_metadata": cel.Document(event.metadata),
                "event_id": self.ids[question.event],
                "event_key": event.key,
            }
            self._at = question.event, values
        return {**self._at[1], "payload": question.filter.row.payload}

    def filter_errors(self, event: int) -> str | None:
        """As the event keeps them."""
        found = self.errors.get(event)
        return json.dumps(found, ensure_ascii=False) if found else None


class EventStarts(Actor):
    """See the module."""

    _evaluator: cel.AnyEvaluator
    _tenant_id: str

    def __init__(self) -> None:
        super().__init__()
        self._patterns = EventPatterns()
        """By workflow id."""
        self._names: dict[str, str] = {}
        """Of the workflows, by id."""
        self._filters = Filters()
        self._apart = 0
        self._wait_for_apart: deque[Push] = deque()

    # ------------------------------------------------------------ workflows and filters

    def set_workflow(
        self, workflow_id: str, name: str, triggers: tuple[str, ...], declared: tuple[FilterRow, ...] = ()
    ) -> None:
        """What the latest version of a workflow listens to. Its declared filters, if any, take the place of those before."""
        self._names[workflow_id] = name
        self._patterns.set(workflow_id, triggers)
        if declared:
            self._filters.drop_all(workflow_id, only_declarative=True)
            for row in declared:
                self._filters.put(row)

    def forget_workflow(self, workflow_id: str) -> None:
        """A workflow is gone, and its filters with it."""
        self._names.pop(workflow_id, None)
        self._patterns.set(workflow_id, ())
        self._filters.drop_all(workflow_id, only_declarative=False)

    def restore_filters(self, rows: tuple[FilterRow, ...]) -> None:
        """Filters from the record."""
        for row in rows:
            self._filters.put(row)

    def create_filter(self, gateway: "Handle[Any]", message: CreateFilter) -> None:
        """Add a filter; answered after the commit with its `FilterRow`."""
        if message.workflow_id not in self._names:
            text = f"workflow {message.workflow_id} is not known: a filter belongs to a registered workflow"
            self._refuse(gateway, message.request_id, Refused(Code.INVALID_ARGUMENT, text))
            return
        now = self.clock.now()
        row = FilterRow(
            self.rng.uuid7(now),
            self._tenant_id,
            message.workflow_id,
            message.scope,
            message.expression,
            message.payload,
            False,  # is_declarative
            now,
            now,
        )
        self._put_filter(gateway, message.request_id, row)

    def update_filter(self, gateway: "Handle[Any]", message: UpdateFilter) -> None:
        """Change a filter; answered after the commit with its `FilterRow`."""
        old = self._filters.get(message.filter_id)
        if old is None:
            self._refuse(gateway, message.request_id, _unknown(message.filter_id))
            return
        row = old._replace(
            scope=old.scope if message.scope is None else message.scope,
            expression=old.expression if message.expression is None else message.expression,
            payload=old.payload if message.payload is None else message.payload,
            updated_at=self.clock.now(),
        )
        self._put_filter(gateway, message.request_id, row)

    def delete_filter(self, gateway: "Handle[Any]", message: DeleteFilter) -> None:
        """Forget a filter; answered after the commit with what was its `FilterRow`."""
        row = self._filters.get(message.filter_id)
        if row is None:
            self._refuse(gateway, message.request_id, _unknown(message.filter_id))
            return
        self._filters.drop(row.id)
        self.record(FilterDrop(self._tenant_id, row.id))
        self._reply(gateway, message.request_id, row)

    def _put_filter(self, gateway: "Handle[Any]", request_id: int, row: FilterRow) -> None:
        twin = self._filters.twin_of(row)
        if twin is not None:
            text = (
                f"workflow {self._names.get(row.workflow_id, row.workflow_id)!r} has this filter already: {twin.id} is alike in "
                "scope, expression and payload"
            )
            self._refuse(gateway, request_id, Refused(Code.ALREADY_EXISTS, text))
            return
        if row.expression.strip():
            try:
                cel.compile(row.expression, cel.Environment.EVENT_FILTER)
            except cel.InvalidExpression as error:
                self._refuse(gateway, request_id, Refused(Code.INVALID_ARGUMENT, str(error)))
                return
        self._filters.put(row)
        self.record(row)
        self._reply(gateway, request_id, row)

    def records_refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused filters: their workflow was deleted meanwhile."""
        for record in records:
            self._filters.drop(record.id)
        for bound, args in effects:
            answers = tuple(Refusal(answer.request_id, Code.INVALID_ARGUMENT, error) for answer in args[0])
            bound.send(answers)

    # ------------------------------------------------------------ the trial of an expression

    def evaluate_filter(self, gateway: "Handle[Any]", message: EvaluateFilter) -> None:
        """Try an expression; answered with a `FilterEvaluated`."""
        values = {
            "input": message.input,
            "payload": message.payload,
            "additional_metadata": message.metadata,
        }
        try:
            expression = cel.compile(message.expression, cel.Environment.EVENT_FILTER)
            if not expression.is_cheap(values):
                context = (gateway, message.request_id)
                self.fetch(
                    self._evaluator.evaluate_apart, expression, values, then=self.me.tried, context=context
                )
                return
            found = FilterEvaluated(bool(expression.evaluate(values)), None)
        except cel.CelError as error:
            found = FilterEvaluated(None, str(error))
        self._reply(gateway, message.request_id, found)

    def tried(self, context: tuple["Handle[Any]", int], value: object, error: BaseException | None) -> None:
        """An expression that was tried outside of this process has its value."""
        if error is not None and not isinstance(error, cel.EvaluationFailed):
            raise error
        found = FilterEvaluated(None, str(error)) if error is not None else FilterEvaluated(bool(value), None)
        self._reply(*context, found)

    # ------------------------------------------------------------ pushes

    def push(self, gateway: "Handle[Any]", message: PushEvents) -> None:
        """Events from outside: to be stored, with the runs that they start and the waits that they end."""
        now = self.clock.now()
        push = Push(gateway, message, tuple(self.rng.uuid7(now) for _ in message.events))
        for index, event in enumerate(message.events):
            for workflow_id in self._patterns.listeners(event.key):
                if not self._filters.has_any(workflow_id):
                    push.starts.append(Start(index, self._names[workflow_id]))
                elif event.scope is not None:
                    push.open.extend(
                        _Question(index, workflow_id, found)
                        for found in self._filters.of_scope(workflow_id, event.scope)
                        if not found.never_matches
                    )
        self._judge(push)

    def judge_more(self, push: Push) -> None:
        """Go on asking filters."""
        self._judge(push)

    def _judge(self, push: Push) -> None:
        for _ in range(min(JUDGED, len(push.open))):
            question = push.open.popleft()
            try:
                expression = question.filter.expression
                values = push.values(question)
                if not expression.is_cheap(values):
                    push.apart.append(question)
                elif expression.evaluate(values):
                    self._start_by(push, question)
            except cel.CelError as error:
                self._note_failure(push, question, error)
        if push.open:
            self.me.judge_more.send(push)
        elif not push.apart:
            self._decided(push)
        elif self._apart < APART:
            self._judge_apart(push)
        else:
            self._wait_for_apart.append(push)

    def _judge_apart(self, push: Push) -> None:
        self._apart += 1
        self.fetch(self._evaluate_apart, push, then=self.me.judged_apart, context=push)

    async def _evaluate_apart(self, push: Push) -> list[bool | cel.EvaluationFailed]:
        """The value of each question, or the error in its place."""
        found: list[bool | cel.EvaluationFailed] = []
        for question in push.apart:
            try:
                expression = question.filter.expression
                found.append(bool(await self._evaluator.evaluate_apart(expression, push.values(question))))
            except cel.EvaluationFailed as error:
                found.append(error)
        return found

    def judged_apart(
        self, push: Push, found: list[bool | cel.EvaluationFailed] | None, error: BaseException | None
    ) -> None:
        """Expressions that were evaluated outside of this process have their values."""
        self._apart -= 1
        if self._wait_for_apart:
            self._judge_apart(self._wait_for_apart.popleft())
        if error is not None:
            raise error
        assert found is not None
        for question, value in zip(push.apart, found, strict=True):
            if isinstance(value, cel.EvaluationFailed):
                self._note_failure(push, question, value)
            elif value:
                self._start_by(push, question)
        self._decided(push)

    def _start_by(self, push: Push, question: _Question) -> None:
        name = self._names.get(question.workflow_id)
        if name is not None:  # else it was deleted meanwhile
            push.starts.append(Start(question.event, name, run_filter(question.filter.row)))

    def _note_failure(self, push: Push, question: _Question, error: cel.CelError) -> None:
        kept, event = question.filter, push.message.events[question.event]
        if not kept.has_failed:
            kept.has_failed = True
            logger.warning(
                "tenant %s: filter %s of workflow %r counts as false for event %r (%s): %s; further failures of it are told by the events alone",
                self._tenant_id,
                kept.row.id,
                self._names.get(question.workflow_id, question.workflow_id),
                event.key,
                push.ids[question.event],
                error,
            )
        errors = push.errors.setdefault(question.event, [])
        if len(errors) < ERRORS_KEPT:
            text = str(error)
            if len(text) > ERROR_CHARACTERS:
                text = text[: ERROR_CHARACTERS - 3] + "..."
            errors.append({"filterId": kept.row.id, "workflowId": question.workflow_id, "error": text})

    def _decided(self, push: Push) -> None:
        """It is known what a push starts."""
        raise NotImplementedError

    # ------------------------------------------------------------ answers

    def _reply(self, gateway: "Handle[Any]", request_id: int, value: object) -> None:
        self.send_after_commit(gateway.deliver, (Reply(request_id, value),))

    def _refuse(self, gateway: "Handle[Any]", request_id: int, refused: Refused) -> None:
        self.send_after_commit(gateway.deliver, (Refusal(request_id, refused.code, refused.message),))


def _unknown(filter_id: str) -> Refused:
    return Refused(Code.NOT_FOUND, f"filter {filter_id} is not known")
