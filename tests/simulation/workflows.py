"""The workflows of a simulation: one for each thing that a task may do, and random ones with parents and conditions.

What the function of a task does is told by the letters of the task's name (`kind_of`); the digits only keep names apart.
"""

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, validate
from tests.simulation.oracle import EVENT_EXPRESSIONS, PARENT_EXPRESSIONS

EVENT_KEYS = ("go", "stop")
SCOPES = (None, "s1", "s2")
STARTING_KEYS = ("order:created", "order:paid", "bill:created")
LISTENERS: dict[str, tuple[str, ...]] = {
    "evented": ("order:created", "order:*ed"),
    "evented-dag": ("order:*",),
    "filtered": ("*:created",),
    "filtered-dag": ("order:paid", "*:*"),
}
"""Workflows that events start, and what each listens to."""
FILTERS: dict[str, tuple[tuple[str, str], ...]] = {
    "filtered": (
        ("s1", "input.n > 5.0"),
        ("s1", "has(input.l) && input.l.exists(x, x > 5.0)"),
        ("s2", "input.who == 'a'"),
    ),
    "filtered-dag": (("s2", "input.who == 'b' && input.n > 5.0"),),
}
"""Scope and expression of the filters of those that have any; the payload of a filter tells its workflow and its place here."""

DEFAULTS = {"execution_timeout": "24h", "schedule_timeout": "24h"}
"""A day, so that only what hangs on purpose is ended by a time-out."""
KINDS: dict[str, dict[str, Any]] = {
    "fast": {},
    "slow": {},
    "flaky": {"retries": 3},
    "backoff": {"retries": 2, "backoff_factor": 1.7, "backoff_max_seconds": 4},
    "parent": {"retries": 1},
    "hang": {"execution_timeout": "3s", "retries": 1},
    "refresh": {"execution_timeout": "3s", "retries": 1},
    "release": {"execution_timeout": "25s", "retries": 1},
    "failing": {},
    "unserved": {"schedule_timeout": "2s"},
}
MAY_TIME_OUT = frozenset({"hang", "refresh", "release"})
IN_DAGS = ("fast",) * 8 + (
    "flaky",
    "backoff",
    "parent",
    "refresh",
    "release",
    "failing",
    "slow",
    "hang",
    "unserved",
)
SINGLES = ("fast", "slow", "flaky", "backoff", "parent", "hang", "refresh", "release", "unserved")
"""Workflows of one task, named as its kind."""
ONCE = ("once-ttl", "once-status", "once-dag", "once-apart")
"""Workflows with an idempotency key."""


LIMITED = ("limited-rr", "limited-apart", "limited-chain", "limited-dag", "limited-oldest", "limited-newest")
"""Workflows with concurrency."""
RATED = ("rated-one", "rated-other", "rated-key", "rated-placed", "rated-much")
"""Workflows with rate limits; two of them take the same buckets in opposite orders."""
TOO_MUCH = 50
"""Units that no limit has."""
MAY_BE_DISPLACED = frozenset({"limited-oldest", "limited-newest"})
"""Those whose runs are cancelled when their group is full."""


def kind_of(task_name: str) -> str:
    """What the function of a task does."""
    return task_name.rstrip("0123456789")


def make_task(workflow: str, name: str, **fields: Any) -> TaskDefinition:
    """A task with what its kind needs."""
    return TaskDefinition(name, f"{workflow}:{name}", **{**DEFAULTS, **KINDS[kind_of(name)], **fields})


def make_workflows(rng: random.Random) -> dict[str, WorkflowDefinition]:
    """The workflows of one simulation."""
    found = [WorkflowDefinition(kind, (make_task(kind, kind),)) for kind in SINGLES]
    found += _make_evented()
    found += [_make_lone(rng, f"lone{number}") for number in range(3)]
    found += [make_dag(rng, f"dag{number}") for number in range(4)]
    found.append(_make_crossed())
    found += _make_once(rng)
    found += _make_limited(rng)
    found += _make_rated(rng)
    for definition in found:
        validate(definition)
    return {definition.name: definition for definition in found}


def _make_evented() -> Iterator[WorkflowDefinition]:
    for name, triggers in LISTENERS.items():
        tasks = (make_task(name, "fast0"), make_task(name, "fast1", parents=("fast0",)))
        filters = tuple(
            {
                "scope": scope,
                "expression": expression,
                "payload": json.dumps({"of": name, "number": number}),
            }
            for number, (scope, expression) in enumerate(FILTERS.get(name, ()))
        )
        yield WorkflowDefinition(
            name,
            tasks if name.endswith("-dag") else (make_task(name, "slow0"),),
            event_triggers=triggers,
            default_filters=filters,
        )


def _make_once(rng: random.Random) -> Iterator[WorkflowDefinition]:
    plain = "input.key"
    for name, expression, ttl_ms, method in (
        ("once-ttl", plain, rng.choice((1_500, 4_000)), "TTL"),
        ("once-status", plain, rng.choice((3_000, 600_000)), "STATUS"),
        ("once-apart", "input.l.exists(x, x > 5.0) ? input.key : 'other'", 600_000, "STATUS"),
    ):
        idempotency = {"expression": expression, "ttl_ms": ttl_ms, "method": method}
        yield WorkflowDefinition(name, (make_task(name, "fast0"),), idempotency=idempotency)
    name = "once-dag"
    tasks = (make_task(name, "fast0"), make_task(name, "fast1", parents=("fast0",)))
    yield WorkflowDefinition(
        name, tasks, idempotency={"expression": plain, "ttl_ms": 600_000, "method": "STATUS"}
    )


def _make_limited(rng: random.Random) -> Iterator[WorkflowDefinition]:
    def entry(expression: str, most: int, strategy: str = "GROUP_ROUND_ROBIN") -> dict[str, Any]:
        return {"expression": expression, "max_runs": rng.randint(1, most), "limit_strategy": strategy}

    plain, macro = "input.key", "input.l.exists(x, x > 5.0) ? input.key : 'other'"
    for name, concurrency, own in (
        ("limited-rr", (entry(plain, 2),), ()),
        ("limited-apart", (), (entry(macro, 2),)),
        ("limited-chain", (entry(plain, 2), entry("'all'", 3)), (entry(macro, 2),)),
        ("limited-oldest", (entry(plain, 2, "CANCEL_IN_PROGRESS"),), ()),
        ("limited-newest", (), (entry(plain, 2, "CANCEL_NEWEST"),)),
    ):
        task = make_task(name, rng.choice(("slow0", "backoff0", "flaky0", "hang0")), concurrency=own)
        yield WorkflowDefinition(name, (task,), concurrency=concurrency)
    name = "limited-dag"
    tasks = (
        make_task(name, "fast0"),
        make_task(name, "backoff1", parents=("fast0",), concurrency=(entry("'all'", 2),)),
        make_task(name, "slow2", parents=("fast0",), concurrency=(entry(plain, 1),)),
        make_task(name, "fast3", parents=("backoff1", "slow2")),
    )
    yield WorkflowDefinition(
        name, tasks, concurrency=(entry(plain, 2),), on_failure_task=make_task(name, "fast99")
    )


def _make_rated(rng: random.Random) -> Iterator[WorkflowDefinition]:
    def limit(key: str, units: int, **fields: Any) -> dict[str, Any]:
        return {"key": key, "units": units, "duration": "SECOND", **fields}

    by_key = limit("", 1, key_expr="input.key", limit_values_expr=str(rng.choice((3, 8))))
    place = {"expression": "input.key", "max_runs": 2, "limit_strategy": "GROUP_ROUND_ROBIN"}
    for name, kind, limits, concurrency in (
        ("rated-one", "flaky0", (limit("a", 1), limit("b", 2)), ()),
        ("rated-other", "slow0", (limit("b", 1), limit("a", 2)), ()),
        ("rated-key", "backoff0", (by_key,), ()),
        ("rated-placed", "fast0", (limit("a", 1), by_key), (place,)),
        ("rated-much", "fast0", (limit("a", TOO_MUCH),), ()),
    ):
        task = make_task(name, kind, rate_limits=limits)
        yield WorkflowDefinition(name, (task,), concurrency=concurrency)


def _make_crossed() -> WorkflowDefinition:
    """Tasks that are to be skipped and to be cancelled by one and the same output."""
    name = "dag-crossed"
    on_first = {
        "kind": "parent",
        "parent": "fast0",
        "or_group_id": "same",
        "readable_data_key": "fast0",
        "expression": "has(output.n) && output.n < 5.0",
    }
    both = tuple({**on_first, "action": action} for action in ("CANCEL", "SKIP"))
    tasks = (
        make_task(name, "fast0"),
        make_task(name, "fast1", parents=("fast0",), conditions=both),
        make_task(name, "fast2", parents=("fast0", "fast1"), conditions=both[:1]),
    )
    return WorkflowDefinition(name, tasks)


def make_dag(rng: random.Random, name: str) -> WorkflowDefinition:
    """Up to seven tasks in random order of dependence, with conditions of every kind here and there."""
    tasks: list[TaskDefinition] = []
    density = rng.choice((0.25, 0.4, 0.7))
    for number in range(rng.randint(2, 7)):
        parents = tuple(task.name for task in tasks if rng.random() < density)
        tasks.append(
            make_task(
                name,
                f"{rng.choice(IN_DAGS)}{number}",
                parents=parents,
                conditions=tuple(_conditions(rng, parents, rng.choice((0, 0, 0, 1, 1, 2, 3)))),
            )
        )
    on_failure = make_task(name, rng.choice(("fast99", "flaky99"))) if rng.random() < 0.5 else None
    return WorkflowDefinition(name, tuple(tasks), on_failure_task=on_failure)


def _make_lone(rng: random.Random, name: str) -> WorkflowDefinition:
    """One task that waits."""
    conditions = tuple(_conditions(rng, (), rng.choice((1, 1, 2, 3))))
    return WorkflowDefinition(name, (make_task(name, "fast0", conditions=conditions),))


def _conditions(rng: random.Random, parents: tuple[str, ...], count: int) -> Iterator[dict[str, Any]]:
    groups = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2)]
    for number in range(count):
        base = {
            "action": rng.choice(("QUEUE", "QUEUE", "SKIP", "CANCEL")),
            "or_group_id": rng.choice(groups),
            "expression": "",
            "readable_data_key": f"key{number}",
        }
        kind = rng.choice(("parent", "parent", "sleep", "event") if parents else ("sleep", "event"))
        if kind == "parent":
            expression = rng.choice(tuple(PARENT_EXPRESSIONS))
            yield {**base, "kind": kind, "parent": rng.choice(parents), "expression": expression}
        elif kind == "sleep":
            yield {**base, "kind": kind, "sleep_for": rng.choice(("300ms", "1s", "4s"))}
        else:
            yield {
                **base,
                "kind": kind,
                "event_key": rng.choice(EVENT_KEYS),
                "event_scope": rng.choice((None, None, "s1", "s2")),
                "expression": rng.choice(tuple(EVENT_EXPRESSIONS)),
            }


def make_payload(rng: random.Random, nonce: int) -> dict[str, Any]:
    """The payload of an event; the nonce tells it from every other."""
    payload: dict[str, Any] = {"nonce": nonce}
    if rng.random() < 0.9:
        payload |= {"who": rng.choice(("a", "b")), "n": rng.choice((1, 9))}
    if rng.random() < 0.5:
        payload["l"] = rng.choice(([1], [1, 9], []))
    return payload


def make_output(rng: random.Random, attempt: int) -> bytes:
    """The output of a task, as JSON text of many shapes."""
    shape = rng.random()
    if shape < 0.06:
        return rng.choice((b"", b"null", b"[1]", b'"text"'))
    output: dict[str, Any] = {"attempt": attempt, "nonce": rng.getrandbits(40)}
    if shape < 0.9:
        output["n"] = rng.choice((1, 9))
    if rng.random() < 0.4:
        output["l"] = rng.choice(([1], [9, 1]))
    if rng.random() < 0.07:
        output["skipped"] = True
    return json.dumps(output).encode()
