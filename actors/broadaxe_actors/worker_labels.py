"""Worker labels: what a task asks for, and how well a worker meets it (behaviour-core 6.4). Pure."""

import json
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Any, NamedTuple

Label = str | int
Labels = tuple[tuple[str, Label], ...]
"""Labels of a worker by key."""

DEFAULT_WEIGHT = 100
COMPARATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "EQUAL": eq,
    "NOT_EQUAL": ne,
    "GREATER_THAN": gt,
    "GREATER_THAN_OR_EQUAL": ge,
    "LESS_THAN": lt,
    "LESS_THAN_OR_EQUAL": le,
}
"""By the name that definitions keep: what a worker's value must be to the one asked for. The last four work on integers only."""


class DesiredLabel(NamedTuple):
    """A label that a task would like its worker to have, or must."""

    key: str
    value: Label
    comparator: str = "EQUAL"
    weight: int = DEFAULT_WEIGHT
    required: bool = False

    def is_met(self, labels: Mapping[str, Label]) -> bool:
        """Whether a worker has it. An absent label meets nothing, NOT_EQUAL included."""
        found = labels.get(self.key)
        if found is None:
            return False
        is_ordering = self.comparator not in {"EQUAL", "NOT_EQUAL"}
        if is_ordering and not (isinstance(found, int) and isinstance(self.value, int)):
            return False
        return COMPARATORS[self.comparator](found, self.value)


def desired_labels(found: Mapping[str, Mapping[str, Any]]) -> tuple[DesiredLabel, ...]:
    """From a definition, or from what a trigger says instead of it; in one order, so that equal ones are equal."""
    return tuple(
        DesiredLabel(
            key,
            label["value"],
            label.get("comparator", "EQUAL"),
            label.get("weight", DEFAULT_WEIGHT),
            bool(label.get("required", False)),
        )
        for key, label in sorted(found.items())
    )


def labels_from(text: str) -> Labels:
    """Labels of a worker as they are stored: a JSON object."""
    return tuple(sorted(json.loads(text).items()))


def weight_of(desired: tuple[DesiredLabel, ...], labels: Mapping[str, Label]) -> int | None:
    """The sum of the weights of what a worker meets, or None if it misses what is required."""
    weight = 0
    for label in desired:
        if label.is_met(labels):
            weight += label.weight
        elif label.required:
            return None
    return weight
