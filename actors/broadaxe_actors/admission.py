"""What a task run needs beside a slot: places in concurrency groups, and credits of rate limits. Pure.

`Rules` is what a definition says, `Rendered` what becomes of it for one task run: its expressions depend on nothing but input, metadata and
run id, so they are evaluated when needed and never stored. `Admission` is how far a task run, or a run of several tasks, has come.

Sources: behaviour-core 6.8 (concurrency), 6.9 (rate limits), 7.1 (variables), 7.5 (named and expression-valued limits).
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.rate_limits import SECOND_US, WINDOWS_US, key_problem

WORKFLOW_LEVEL = "workflow"
OVERHEAD_BYTES = 600
"""Of a task run in memory beside its payload: counted where the number of its line says nothing, as there are many lines."""


class GroupKey(NamedTuple):
    """A concurrency group: an entry of a definition, and the rendered key."""

    entry: str
    """`<version or step id>/<number>`, or `tenant/<name>` for an entry that workflows share by its name."""
    key: str


class Strategy(NamedTuple):
    """What a group does when it is full."""

    name: str
    max_runs: int


class PlaceRule(NamedTuple):
    """One concurrency entry of a definition."""

    entry: str
    expression: str
    strategy: str
    max_runs: int
    max_runs_expression: str


class LimitRule(NamedTuple):
    """One rate limit of a definition; an empty expression falls back to the literal."""

    key: str
    key_expression: str
    units: int
    units_expression: str
    limit_expression: str
    duration_seconds: int


class Place(NamedTuple):
    """A place that a task run has to have."""

    group: GroupKey
    strategy: Strategy
    expression: str


class Limit(NamedTuple):
    """Units of a bucket that an attempt spends."""

    key: str
    units: int
    limit: int | None
    """To be put in force, for a dynamic limit; None leaves the bucket as it is."""
    duration_seconds: int


class Rendered(NamedTuple):
    places: tuple[Place, ...]
    limits: tuple[Limit, ...]

    @property
    def lane(self) -> str:
        """Whose turn it is at a free slot: equal for task runs of the same groups."""
        return "" if not self.places else "\n".join(place.group.key for place in self.places)


class Rules:
    """Concurrency entries in the order in which places are taken, and rate limits."""

    __slots__ = ("_evaluated", "limits", "places")

    def __init__(self, places: Sequence[PlaceRule], limits: Sequence[LimitRule]) -> None:
        self.places = tuple(places)
        self.limits = tuple(limits)
        environment = cel.Environment
        evaluated: list[tuple[str, str, cel.Environment]] = []
        for place in self.places:
            evaluated.append(("concurrency key", place.expression, environment.CONCURRENCY_KEY))
            if place.max_runs_expression:
                what = "concurrency max_runs"
                evaluated.append((what, place.max_runs_expression, environment.RATE_LIMIT_UNITS))
        for limit in self.limits:
            if limit.key_expression:
                evaluated.append(("rate limit key", limit.key_expression, environment.RATE_LIMIT_KEY))
            if limit.units_expression:
                evaluated.append(("rate limit units", limit.units_expression, environment.RATE_LIMIT_UNITS))
            if limit.limit_expression:
                evaluated.append(("rate limit", limit.limit_expression, environment.RATE_LIMIT_VALUE))
        self._evaluated = tuple(evaluated)

    def expressions(self) -> list[tuple[str, cel.Expression]]:
        """What each is for, and the expression, in the order that `assemble` takes their values.

        Raises `CelError` for a definition of before expressions were checked at registration.
        """
        return [(what, cel.compile(text, environment)) for what, text, environment in self._evaluated]

    def assemble(self, values: Sequence[Any]) -> Rendered:
        """From the values of `expressions`. Raises `ValueError` for a number that is none to work with."""
        found = iter(values)
        places: list[Place] = []
        for rule in self.places:
            key = next(found)
            max_runs = next(found) if rule.max_runs_expression else rule.max_runs
            if max_runs < 1:
                raise ValueError(
                    f"concurrency max_runs {rule.max_runs_expression!r} is {max_runs}, expected 1 or more"
                )
            places.append(
                Place(GroupKey(rule.entry, key), Strategy(rule.strategy, max_runs), rule.expression)
            )
        limits: dict[str, Limit] = {}
        for limit in self.limits:
            key = next(found) if limit.key_expression else limit.key
            units = next(found) if limit.units_expression else limit.units
            value = next(found) if limit.limit_expression else -1
            problem = key_problem(key)
            if problem is not None:
                raise ValueError(f"rate limit key {limit.key_expression or limit.key!r}: {problem}")
            if units < 0:
                raise ValueError(
                    f"rate limit units {limit.units_expression!r} are {units}, expected 0 or more"
                )
            item = Limit(key, units, value if value >= 0 else None, limit.duration_seconds)
            other = limits.get(key)
            limits[key] = item if other is None else _both(other, item)
        spent = tuple(item for item in limits.values() if item.units)
        return Rendered(tuple(places), tuple(sorted(spent)))


def _both(one: Limit, other: Limit) -> Limit:
    """Two limits of one task whose keys are the same: units add up, the lower limit and the longer window count (behaviour-core 6.9)."""
    values = [value for value in (one.limit, other.limit) if value is not None]
    return Limit(
        one.key,
        one.units + other.units,
        min(values) if values else None,
        max(one.duration_seconds, other.duration_seconds),
    )


def place_rules(owner_id: str, entries: Sequence[Mapping[str, Any]], level: str = "") -> list[PlaceRule]:
    """From `concurrency` of a definition. `owner_id`: the version or step, so that old and new versions share no groups."""
    return [
        PlaceRule(
            f"tenant/{entry['name']}" if entry.get("is_tenant_scoped") else f"{owner_id}/{level}{number}",
            entry["expression"],
            entry["limit_strategy"],
            entry["max_runs"],
            entry.get("max_runs_expression") or "",
        )
        for number, entry in enumerate(entries)
    ]


def limit_rules(entries: Sequence[Mapping[str, Any]]) -> list[LimitRule]:
    """From `rate_limits` of a definition."""
    return [
        LimitRule(
            entry["key"],
            entry.get("key_expr") or "",
            entry.get("units") or 0,
            entry.get("units_expr") or "",
            entry.get("limit_values_expr") or "",
            WINDOWS_US[entry.get("duration", "MINUTE")] // SECOND_US,
        )
        for entry in entries
    ]


def make_rules(places: Sequence[PlaceRule], limits: Sequence[LimitRule]) -> Rules | None:
    """None where nothing but a slot is needed."""
    return Rules(places, limits) if places or limits else None


class Admission:
    """How far a task run, or a run of several tasks, is on its way through its concurrency groups."""

    __slots__ = ("held", "is_evaluating", "rendered", "ticket", "tickets", "waits_since")

    def __init__(self) -> None:
        self.rendered: Rendered | None = None
        """None until the expressions have been evaluated."""
        self.is_evaluating = False
        """They are, outside of this process."""
        self.held = 0
        """Places held: the first so many of `rendered.places`."""
        self.tickets: list[int] = []
        """By place held: the number of the request that got it."""
        self.ticket = 0
        """The request that is open, for the next place; 0 for none."""
        self.waits_since = 0

    @property
    def is_complete(self) -> bool:
        """Whether every place is held."""
        return self.rendered is not None and self.held == len(self.rendered.places)

    @property
    def next_place(self) -> Place:
        """The place to ask for."""
        assert self.rendered is not None
        return self.rendered.places[self.held]

    def place_of(self, group: GroupKey, ticket: int) -> Place | None:
        """The place that a group means by the number of a request, if that still holds."""
        if self.rendered is None or (ticket != self.ticket and ticket not in self.tickets):
            return None
        return next((place for place in self.rendered.places if place.group == group), None)

    def ask(self, ticket: int, now: int) -> Place:
        """The next place is asked for."""
        self.ticket = ticket
        self.waits_since = now
        return self.next_place

    def admit(self) -> Place:
        """The place that was asked for is held now."""
        place = self.next_place
        self.tickets.append(self.ticket)
        self.ticket = 0
        self.held += 1
        return place

    def hold_all(self, ticket: int) -> tuple[Place, ...]:
        """What runs already has its places, whoever waits; returns those that it did not hold."""
        assert self.rendered is not None
        missing = self.rendered.places[self.held :]
        self.tickets.extend(ticket for _ in missing)
        self.ticket = 0
        self.held = len(self.rendered.places)
        return missing

    def give_up(self) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
        """Nothing is held or asked for any more; returns what was, and the one that was asked for."""
        if self.rendered is None:
            return (), ()
        held = self.held
        asked = held + (1 if self.ticket else 0)
        self.held = self.ticket = 0
        self.tickets.clear()
        places = self.rendered.places
        return places[:held], places[held:asked]


class Seeking:
    """Who asks for places, over all members of a tenant."""

    __slots__ = ("last_ticket", "later", "unheld")

    def __init__(self) -> None:
        self.last_ticket = 0
        self.later: list[str] = []
        """Members that ask once all who run hold their places."""
        self.unheld: set[str] = set()
        """Members that run, and whose keys are being evaluated."""

    def next_ticket(self) -> int:
        """The number of a request."""
        self.last_ticket += 1
        return self.last_ticket


def digest(text: str) -> str:
    """A short name for a text of any length, as part of the key of a line."""
    return blake2b(text.encode(), digest_size=12).hexdigest()
