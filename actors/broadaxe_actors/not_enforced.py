"""What a definition asks for that the engine keeps but does not act on yet. Pure.

A feature leaves `FEATURES` with the change that makes the engine enforce it. What is refused when a run is made, such as a workflow
of several tasks, is no case for this: nobody can overlook a refusal.
"""

from collections.abc import Callable, Mapping

from broadaxe_actors.definitions import WorkflowDefinition

FEATURES: Mapping[str, Callable[[WorkflowDefinition], bool]] = {
    "durable_tasks": lambda w: any(task.is_durable for task in w.all_tasks),
}
"""Name, as logs and `broadaxe-not-enforced` have it: whether a definition uses it."""


def not_enforced(definition: WorkflowDefinition) -> tuple[str, ...]:
    """The names of such features that a definition uses, in the order of `FEATURES`."""
    return tuple(name for name, is_used in FEATURES.items() if is_used(definition))
