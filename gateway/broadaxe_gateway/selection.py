"""Which runs a request means: ids or a filter, as gRPC and REST both give them, to `RunFilter`.

Pure; raises `Refused` (INVALID_ARGUMENT). Rules of behaviour-core 4.8.
"""

from collections.abc import Iterable, Sequence
from types import MappingProxyType

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.rpc.convert.checks import check_text, check_uuid, refuse, shown
from broadaxe_storage.records import TaskRunState

MAX_IDS = 10_000
"""Ids that one request may name; official clients send 500 at a time."""

STATES_OF_STATUS = MappingProxyType(
    {
        "QUEUED": (TaskRunState.QUEUED, TaskRunState.BACKING_OFF, TaskRunState.WAITING),
        "RUNNING": (TaskRunState.ASSIGNED, TaskRunState.RUNNING, TaskRunState.EVICTED),
        "COMPLETED": (TaskRunState.COMPLETED, TaskRunState.SKIPPED),
        "FAILED": (TaskRunState.FAILED,),
        "CANCELLED": (TaskRunState.CANCELLED,),
        "EVICTED": (TaskRunState.EVICTED,),
    }
)
"""The states that a status of the wire stands for."""


def ids(given: Sequence[str], field: str) -> tuple[str, ...]:
    """Ids in canonical form, each once, in the order given."""
    if len(given) > MAX_IDS:
        raise refuse(
            f"{field} names {len(given):,} runs or tasks; a request may name at most {MAX_IDS:,}: split it, or use a filter"
        )
    return tuple(dict.fromkeys(check_uuid(text, field) for text in given))


def states(statuses: Iterable[str]) -> tuple[int, ...]:
    """The states that any of these statuses stands for; empty for none."""
    found: dict[int, None] = {}
    for status in statuses:
        known = STATES_OF_STATUS.get(status.upper())
        if known is None:
            raise refuse(
                f"status {shown(status)} is not known: expected one of {', '.join(STATES_OF_STATUS)}"
            )
        found.update(dict.fromkeys(int(state) for state in known))
    return tuple(found)


def metadata_item(text: str) -> tuple[str, str] | None:
    """Key and value of `key:value`, split at the first colon; None for any other form."""
    key, colon, value = text.partition(":")
    return (check_text(key, "metadata key"), check_text(value, "metadata value")) if key and colon else None


def metadata(items: Iterable[str], field: str = "additional_metadata") -> tuple[tuple[str, str], ...]:
    """Keys and values of `key:value` texts."""
    found = []
    for text in items:
        item = metadata_item(text)
        if item is None:
            raise refuse(f"{field} {shown(text)} is not valid: expected key:value")
        found.append(item)
    return tuple(found)


def check_choice(*, has_ids: bool, has_filter: bool) -> None:
    """A request names ids or a filter, and not both."""
    if has_ids and has_filter:
        raise refuse("ids and a filter are both given: give one of them")
    if not has_ids and not has_filter:
        raise refuse(
            "neither ids nor a filter are given: name the runs or tasks, or give a filter with since"
        )


def check_replay_enabled(*, is_enabled: bool) -> None:
    """Raises `Refused` (FAILED_PRECONDITION) where replays are switched off."""
    if not is_enabled:
        raise Refused(
            Code.FAILED_PRECONDITION,
            "replays are switched off on this server (SERVER_REPLAY_ENABLED=false)",
        )
