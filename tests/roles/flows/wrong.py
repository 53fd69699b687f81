"""A workflow that cannot be registered: an expression of a condition does not compile."""

from flows.base import Flows


def declare(flows: Flows) -> None:
    workflow = flows.workflow("wrong-expression")
    start = flows.step(workflow, "start")
    condition = flows.sdk.ParentCondition(parent=start, expression="output.value >")
    flows.step(workflow, "chosen", [start], skip_if=[condition])
