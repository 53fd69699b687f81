"""Where expressions stand, and what each place gives them. Pure; source: behaviour-core 7.1, 4.6, 6.8, 6.9, 6.10, 6.15."""

from enum import Enum
from typing import Literal, NamedTuple

VariableKind = Literal["map", "string", "absent"]
Result = Literal["bool", "string", "int"]

_OBJECTS: dict[str, VariableKind] = {"input": "map", "additional_metadata": "map"}
_TASK: dict[str, VariableKind] = {**_OBJECTS, "workflow_run_id": "string", "parents": "absent"}
_DELIVERY: dict[str, VariableKind] = {"input": "map", "headers": "map"}


class _Place(NamedTuple):
    name: str
    """In words, for messages, and so that equal places stay distinct members."""
    variables: dict[str, VariableKind]
    result: Result
    has_strings: bool = True
    """Whether the string functions exist; if not, the bare standard library."""
    checksum: Literal["bound", "declared", "unknown"] = "bound"
    needs_metadata_object: bool = False
    """Whether metadata that is no JSON object makes every expression fail, also one that does not read it."""
    lenient: frozenset[str] = frozenset()
    """Variables that count as `{}` when they hold something else than an object."""


class Environment(Enum):
    """A place where an expression may stand: the variables that it may read, its functions, and the type it must give.

    A variable that holds an object counts as `{}` when it is not given, empty or null; reading a string variable that is not given
    is an error, and so is reading `parents`, which only exists so that expressions with it compile.
    """

    PARENT_CONDITION = _Place(
        "parent condition",
        {"output": "map", "input": "map"},
        "bool",
        has_strings=False,
        checksum="unknown",
        lenient=frozenset({"output"}),
    )
    EVENT_CONDITION = _Place(
        "event condition",
        {"input": "map", "output": "map"},
        "bool",
        has_strings=False,
        checksum="unknown",
    )
    EVENT_FILTER = _Place(
        "event filter",
        {**_OBJECTS, "payload": "map", "event_id": "string", "event_key": "string"},
        "bool",
        checksum="declared",
    )
    IDEMPOTENCY_KEY = _Place("idempotency key", _OBJECTS, "string")
    CONCURRENCY_KEY = _Place("concurrency key", _TASK, "string", needs_metadata_object=True)
    RATE_LIMIT_KEY = _Place("rate limit key", _TASK, "string", needs_metadata_object=True)
    RATE_LIMIT_UNITS = _Place("rate limit units", _TASK, "int", needs_metadata_object=True)
    RATE_LIMIT_VALUE = _Place("rate limit", _TASK, "int", needs_metadata_object=True)
    WEBHOOK_EVENT_KEY = _Place("webhook's event key expression", _DELIVERY, "string")
    WEBHOOK_SCOPE = _Place("webhook's scope expression", _DELIVERY, "string")
    BATCH_GROUP_KEY = _Place("batch group key", _TASK, "string", needs_metadata_object=True)

    @property
    def variables(self) -> dict[str, VariableKind]:
        """Name and kind of each variable."""
        return self.value.variables

    @property
    def result(self) -> Result:
        """The type that an expression must give; int takes a double too, and truncates it."""
        return self.value.result
