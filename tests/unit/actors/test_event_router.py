"""What events start: patterns of keys, filters, and the actor that asks them."""

import asyncio
import fnmatch
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors import cel
from broadaxe_actors.creation import Start
from broadaxe_actors.errors import Code
from broadaxe_actors.event_filters import Filters, payload_of, payload_text, run_filter
from broadaxe_actors.event_patterns import EventPatterns
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.event_starts import APART, JUDGED
from broadaxe_actors.messages import (
    CreateFilter,
    DeleteFilter,
    NewEvent,
    PushEvents,
    Refusal,
    Reply,
    UpdateFilter,
)
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import FilterDrop
from tests.factories import TENANT, WORKFLOW, make_filter, new_id

LETTERS = st.text("ab:_%.", max_size=6)
PATTERNS = st.text("ab:_%.*", max_size=6)


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "key", "is_meant"),
    [
        ("user:create", "user:create", True),
        ("user:create", "User:create", False),
        ("user:*", "user:", True),
        ("user:*", "user:a:b.c", True),
        ("user:*", "user", False),
        ("*", "", True),
        ("*:created", "order:created", True),
        ("*:created", "order:created:x", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c", False),
        ("a_c", "abc", False),
        ("a%", "abc", False),
        ("a_*", "a_c", True),
        ("a**b", "a-b", True),
    ],
)
def test_a_star_stands_for_anything_and_everything_else_for_itself(pattern, key, is_meant):
    patterns = EventPatterns()
    patterns.set("w", [pattern])
    assert patterns.listeners(key) == (["w"] if is_meant else [])


@given(st.dictionaries(st.sampled_from("vwxyz"), st.lists(PATTERNS, max_size=4), max_size=5), LETTERS)
def test_listeners_are_those_with_a_pattern_that_fits_each_once(triggers, key):
    patterns = EventPatterns()
    for owner, own in triggers.items():
        patterns.set(owner, own)
    expected = {owner for owner, own in triggers.items() if any(fnmatch.fnmatchcase(key, one) for one in own)}
    found = patterns.listeners(key)
    assert sorted(found) == sorted(expected)
    for owner in triggers:
        patterns.set(owner, [])
    assert patterns.listeners(key) == []
    assert [*patterns._exact, *patterns._by_begin, *patterns._begin_sizes, *patterns._of] == []


def test_the_patterns_of_a_new_version_take_the_place_of_the_old_ones():
    patterns = EventPatterns()
    patterns.set("one", ("a", "b*", "a"))
    patterns.set("two", ("b*",))
    assert patterns.listeners("b1") == ["one", "two"]
    patterns.set("one", ("c",))
    assert (patterns.listeners("a"), patterns.listeners("b1"), patterns.listeners("c")) == (
        [],
        ["two"],
        ["one"],
    )


def test_patterns_with_other_beginnings_and_ends_are_not_looked_at(monkeypatch):
    patterns = EventPatterns()
    for number in range(1_000):
        patterns.set(f"w{number}", (f"tenant-{number:04}:*:*:done",))
    asked = []
    fits = type(next(iter(patterns._by_begin["tenant-0007:"].by_text[":done"].values()))).fits
    monkeypatch.setattr(
        "broadaxe_actors.event_patterns._Pattern.fits", lambda *args: asked.append(args) or fits(*args)
    )
    assert patterns.listeners("tenant-0007:a:b:done") == ["w7"]
    assert len(asked) == 1


# ---------------------------------------------------------------- filters


def test_filters_are_found_by_workflow_and_scope_and_equal_ones_count_once():
    filters = Filters()
    first, twin = make_filter(), make_filter(is_declarative=True)
    other = make_filter(scope="other")
    for row in (first, twin, other):
        filters.put(row)
    assert [kept.row for kept in filters.of_scope(WORKFLOW, "scope")] == [first]
    assert filters.twin_of(first) == twin
    assert filters.twin_of(other) is None
    assert filters.of_scope(WORKFLOW, "unknown") == filters.of_scope(new_id(), "scope") == []
    filters.drop_all(WORKFLOW, only_declarative=True)
    assert filters.twin_of(first) is None
    assert filters.has_any(WORKFLOW)
    filters.drop_all(WORKFLOW, only_declarative=False)
    assert not filters.has_any(WORKFLOW)
    assert len(filters) == 0


def test_a_changed_filter_is_found_by_what_it_says_now():
    filters = Filters()
    row = make_filter()
    filters.put(row)
    filters.put(row._replace(scope="new"))
    assert filters.of_scope(WORKFLOW, "scope") == []
    assert [kept.row.scope for kept in filters.of_scope(WORKFLOW, "new")] == ["new"]
    filters.drop(row.id)
    assert not filters.has_any(WORKFLOW)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), max_size=3))
def test_a_run_keeps_id_and_payload_of_its_filter(payload):
    row = make_filter(payload=payload_text(payload))
    text = run_filter(row)
    assert json.loads(text) == {"id": row.id, "payload": payload}
    assert payload_of(text) == row.payload


# ---------------------------------------------------------------- the router


def event(key="k", payload=b"{}", **fields):
    return NewEvent(key, payload, **fields)


class Router:
    """A router that knows one workflow with the trigger `k*`."""

    def __init__(self, *filters):
        self.probe = Probe(EventRouter, TENANT, MemoryStore())
        self.tracker = peer("tracker")
        self.gateway = peer("gateway")
        self.probe.call("connect", self.tracker)
        self.probe.call("set_workflow", WORKFLOW, "w", ("k*",))
        self.probe.call("restore_filters", tuple(filters))

    def push(self, *events):
        """The rows, and what they start: by event the workflow and the payload of its filter."""
        said = self.probe.call("push", self.gateway, PushEvents(1, TENANT, events))
        while said.sends and said.sends[0].method == "judge_more":
            said = self.probe.call("judge_more", *said.sends[0].args)
        return self.started(said)

    def started(self, said):
        (sent,) = said.sends
        assert (sent.to, sent.method) == (self.tracker, "start_from_events")
        start = sent.args[2]
        return start.events, [
            (one.event, one.workflow, None if one.filter is None else json.loads(payload_of(one.filter)))
            for one in start.starts
        ]

    def ask(self, message):
        said = self.probe.call(
            {
                CreateFilter: "create_filter",
                UpdateFilter: "update_filter",
                DeleteFilter: "delete_filter",
            }[type(message)],
            self.gateway,
            message,
        )
        ((answer,),) = (effect.args[0] for effect in said.effects)
        return answer, said.records


def test_an_event_starts_the_workflows_whose_latest_version_listens_to_its_key():
    router = Probe(EventRouter, TENANT, MemoryStore())
    router.call("connect", tracker := peer("tracker"))
    router.call("set_workflow", "1", "one", ("a", "b*", "a"))
    router.call("set_workflow", "2", "two", ("b", "*b"))
    message = PushEvents(1, TENANT, (event("a"), event("b"), event("c", webhook="stripe")))
    (sent,) = router.call("push", peer("gateway"), message).sends
    assert (sent.to, sent.method) == (tracker, "start_from_events")
    start = sent.args[2]
    assert [row.key for row in start.events] == ["a", "b", "c"]
    assert [row.webhook for row in start.events] == [None, None, "stripe"]
    assert len({row.id for row in start.events}) == 3
    assert start.starts == (Start(0, "one"), Start(1, "two"), Start(1, "one"))
    assert start.new_keys == ("a", "b", "c")
    router.call("set_workflow", "1", "one", ())
    message = PushEvents(2, TENANT, (event("a"), event("b"), event("d")))
    (sent,) = router.call("push", peer("gateway"), message).sends
    assert sent.args[2].starts == (Start(1, "two"),)
    assert sent.args[2].new_keys == ("d",)
    router.call("forget_workflow", "2")
    (sent,) = router.call("push", peer("gateway"), message).sends
    assert sent.args[2].starts == ()


def test_a_workflow_without_filters_is_started_once_whatever_the_scope():
    assert Router().push(event(), event(scope="x"))[1] == [(0, "w", None), (1, "w", None)]


def test_a_workflow_with_filters_needs_a_scope_that_one_of_them_has():
    router = Router(make_filter(expression="true"))
    assert router.push(event(), event(scope="other"), event(scope="scope"))[1] == [(2, "w", {"who": "me"})]


def test_each_filter_that_is_true_starts_a_run_with_its_payload():
    filters = [make_filter(expression=f"input.n > {n}", payload=payload_text({"n": n})) for n in (1, 2, 3)]
    router = Router(*filters, make_filter(expression=" ", payload='{"never":1}'))
    found = router.push(event(payload=b'{"n":3}', scope="scope"), event(payload=b'{"n":0}', scope="scope"))[1]
    assert found == [(0, "w", {"n": 1}), (0, "w", {"n": 2})]


@pytest.mark.parametrize(
    "expression",
    [
        "input.a == 'x' && additional_metadata.b == 'y' && payload.who == 'me' && event_key == 'key'",
        "event_id.size() == 36 && event_key.startsWith('k')",
        "payload.who in ['me', 'you']",
    ],
)
def test_an_expression_reads_event_filter_metadata_key_and_id(expression):
    router = Router(make_filter(expression=expression))
    pushed = event("key", b'{"a":"x"}', metadata='{"b":"y"}', scope="scope")
    assert len(router.push(pushed)[1]) == 1


def test_what_cannot_be_evaluated_counts_as_false_and_the_event_says_so(caplog):
    bad, good = make_filter(expression="input.missing == 1"), make_filter(expression="input.n == 1")
    router = Router(bad, good)
    for _ in range(2):
        rows, starts = router.push(event(payload=b'{"n":1}', scope="scope"), event(scope="none"))
        assert [start[0] for start in starts] == [0]
        (error,) = json.loads(rows[0].filter_errors)
        assert (error["filterId"], error["workflowId"]) == (bad.id, WORKFLOW)
        assert "missing" in error["error"]
        assert rows[1].filter_errors is None
    assert caplog.text.count(f"filter {bad.id} of workflow 'w' counts as false") == 1


def test_a_long_push_is_decided_in_slices_and_starts_in_the_order_of_its_events():
    router = Router(
        make_filter(expression="input.n > 1"), make_filter(expression="input.n > 2", payload="{}")
    )
    events = [event(payload=b'{"n":%d}' % (number % 4), scope="scope") for number in range(JUDGED)]
    said = router.probe.call("push", router.gateway, PushEvents(1, TENANT, tuple(events)))
    assert [sent.method for sent in said.sends] == ["judge_more"]
    starts = router.push(*events)[1]
    assert [start[0] for start in starts] == [
        number for number in range(JUDGED) for _ in range(max(0, number % 4 - 1))
    ]


def test_what_may_take_long_is_asked_apart_and_other_events_pass_meanwhile():
    router = Router(
        make_filter(expression="input.l.exists(x, x > 5)"), make_filter(expression="true", scope="quick")
    )
    slow = event(payload=b'{"l":[1,9]}', scope="scope")
    said = router.probe.call("push", router.gateway, PushEvents(1, TENANT, (slow, event(scope="scope"))))
    assert not said.sends
    (fetched,) = said.fetches
    assert len(router.push(event(scope="quick"))[1]) == 1
    router.probe.clock.advance(1_000)
    found = asyncio.run(fetched.function(*fetched.args))
    rows, starts = router.started(router.probe.call(fetched.then, fetched.context, found, None))
    assert [start[0] for start in starts] == [0]
    assert {row.created_at for row in rows} == {router.probe.clock.now()}
    assert rows[0].filter_errors is None
    assert "l" in json.loads(rows[1].filter_errors)[0]["error"]


def test_only_so_many_pushes_are_asked_apart_at_a_time():
    router = Router(make_filter(expression="input.l.exists(x, x > 5)"))
    message = PushEvents(1, TENANT, (event(payload=b'{"l":[9]}', scope="scope"),))
    fetches = [router.probe.call("push", router.gateway, message).fetches for _ in range(APART + 2)]
    assert [len(found) for found in fetches] == [1] * APART + [0, 0]
    said = router.probe.call("judged_apart", fetches[0][0].context, [True], None)
    assert len(router.started(said)[1]) == 1
    assert len(said.fetches) == 1


def test_a_filter_that_cannot_be_evaluated_apart_counts_as_false():
    router = Router(make_filter(expression="input.l.exists(x, x > 5)"))
    message = PushEvents(1, TENANT, (event(payload=b'{"l":[9]}', scope="scope"),))
    (fetched,) = router.probe.call("push", router.gateway, message).fetches
    failure = cel.EvaluationFailed("input.l.exists(x, x > 5)", "it took longer than 50 ms")
    rows, starts = router.started(router.probe.call("judged_apart", fetched.context, [failure], None))
    assert starts == []
    assert "50 ms" in rows[0].filter_errors


def test_declared_filters_take_the_place_of_declared_ones_and_none_leave_them():
    own, old = make_filter(payload='{"own":1}'), make_filter(is_declarative=True, payload='{"old":1}')
    router = Router(own, old)
    pushed = event(payload=b'{"n":9}', scope="scope")
    router.probe.call("set_workflow", WORKFLOW, "w", ("k",))
    assert [start[2] for start in router.push(pushed)[1]] == [{"own": 1}, {"old": 1}]
    new = make_filter(is_declarative=True, payload='{"new":1}')
    router.probe.call("set_workflow", WORKFLOW, "w", ("k",), (new,))
    assert [start[2] for start in router.push(pushed)[1]] == [{"own": 1}, {"new": 1}]


# ---------------------------------------------------------------- filters by the API


def test_filters_are_created_changed_and_deleted_and_said_after_the_commit():
    router = Router()
    answer, records = router.ask(CreateFilter(5, TENANT, WORKFLOW, "s", "input.n == 1", '{"a":1}'))
    assert isinstance(answer, Reply)
    row = answer.value
    assert records == [row]
    assert (row.workflow_id, row.scope, row.expression, row.payload) == (
        WORKFLOW,
        "s",
        "input.n == 1",
        '{"a":1}',
    )
    assert not row.is_declarative
    pushed = event(payload=b'{"n":1}', scope="s")
    assert router.push(pushed)[1] == [(0, "w", {"a": 1})]
    router.probe.clock.advance(10)
    answer, records = router.ask(UpdateFilter(6, TENANT, row.id, None, None, '{"a":2}'))
    assert answer.value == row._replace(payload='{"a":2}', updated_at=row.created_at + 10)
    assert records == [answer.value]
    assert router.push(pushed)[1] == [(0, "w", {"a": 2})]
    answer, records = router.ask(DeleteFilter(7, TENANT, row.id))
    assert answer.value.id == row.id
    assert records == [FilterDrop(TENANT, row.id)]
    assert router.push(pushed)[1] == [(0, "w", None)]


def test_what_is_wrong_with_a_filter_is_said_and_changes_nothing():
    present = make_filter(expression="true", payload='{"a":1}')
    other = make_filter(expression="false", payload='{"a":1}')
    router = Router(present, other)
    create = CreateFilter(1, TENANT, WORKFLOW, "scope", "true", '{"a":1}')
    for message, code, text in (
        (create, Code.ALREADY_EXISTS, present.id),
        (create._replace(workflow_id=new_id()), Code.INVALID_ARGUMENT, "is not known"),
        (create._replace(expression="input.("), Code.INVALID_ARGUMENT, "does not compile"),
        (create._replace(expression="'text'"), Code.INVALID_ARGUMENT, "must be a bool"),
        (create._replace(expression="nothing.x"), Code.INVALID_ARGUMENT, "no variable nothing"),
        (UpdateFilter(1, TENANT, other.id, None, "true", None), Code.ALREADY_EXISTS, present.id),
        (UpdateFilter(1, TENANT, other.id, None, "1 +", None), Code.INVALID_ARGUMENT, "does not compile"),
        (UpdateFilter(1, TENANT, new_id(), "s", None, None), Code.NOT_FOUND, "is not known"),
        (DeleteFilter(1, TENANT, new_id()), Code.NOT_FOUND, "is not known"),
    ):
        answer, records = router.ask(message)
        assert isinstance(answer, Refusal)
        assert (answer.code, text in answer.message) == (code, True), answer
        assert records == []
    assert len(router.probe.actor._filters) == 2


def test_a_filter_that_postgres_refuses_is_forgotten_and_said():
    router = Router()
    said = router.probe.call(
        "create_filter", router.gateway, CreateFilter(9, TENANT, WORKFLOW, "s", "true", "{}")
    )
    effects = tuple((effect.to.deliver, effect.args) for effect in said.effects)
    said = router.probe.call("records_refused", tuple(said.records), effects, "its workflow is gone")
    (sent,) = said.sends
    assert sent.args[0] == (Refusal(9, Code.INVALID_ARGUMENT, "its workflow is gone"),)
    assert router.push(event(scope="s"))[1] == [(0, "w", None)]
