"""Our clients have what those of hatchet-sdk have, by the same names and parameters: programs written for the one run with the other."""

import inspect
import warnings
from typing import Any

import pytest

import broadaxe
from broadaxe._resource_clients import MetricsClient

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hatchet_sdk.features.cel import CELClient
    from hatchet_sdk.features.filters import FiltersClient
    from hatchet_sdk.features.logs import LogsClient
    from hatchet_sdk.features.metrics import MetricsClient as TheirMetricsClient
    from hatchet_sdk.features.rate_limits import RateLimitsClient
    from hatchet_sdk.features.runs import BulkCancelReplayOpts, RunFilter, RunsClient
    from hatchet_sdk.features.workers import WorkersClient
    from hatchet_sdk.features.workflows import WorkflowsClient
    from hatchet_sdk.runnables.workflow import Standalone, Workflow

CLIENTS = (
    (RunsClient, broadaxe.RunsClient),
    (WorkflowsClient, broadaxe.WorkflowsClient),
    (WorkersClient, broadaxe.WorkersClient),
    (LogsClient, broadaxe.LogsClient),
    (TheirMetricsClient, MetricsClient),
    (RateLimitsClient, broadaxe.RateLimitsClient),
    (FiltersClient, broadaxe.FiltersClient),
    (CELClient, broadaxe.CELClient),
)
THEIR_OWN = {"client", "admin_client", "workflow_run_listener", "workflow_run_event_listener"}
"""Of their insides, some deprecated there."""
ON_THE_SERVER = ("create_filter", "list_runs", "pause", "unpause", "delete")
"""What a workflow, or a standalone task, does to itself as the server has it."""


def methods(kind: type) -> dict[str, Any]:
    found = inspect.getmembers(kind, callable)
    return {name: method for name, method in found if not name.startswith("_") and name not in THEIR_OWN}


def parameters(method: Any) -> dict[str, Any]:
    """Names in order, with what is taken where nothing is given."""
    return {name: item.default for name, item in inspect.signature(method).parameters.items()}


CASES = [(theirs, ours, name) for theirs, ours in CLIENTS for name in methods(theirs)] + [
    (theirs, ours, prefix + name)
    for theirs, ours in ((Workflow, broadaxe.Workflow), (Standalone, broadaxe.Standalone))
    for prefix in ("", "aio_")
    for name in ON_THE_SERVER
]


@pytest.mark.parametrize(
    ("theirs", "ours", "name"), CASES, ids=[f"{theirs.__name__}.{name}" for theirs, _, name in CASES]
)
def test_a_method_is_there_with_the_same_parameters(theirs: type, ours: type, name: str) -> None:
    wanted, found = parameters(getattr(theirs, name)), parameters(getattr(ours, name))
    assert list(found) == list(wanted)
    for parameter, default in wanted.items():
        if default is inspect.Parameter.empty:
            assert found[parameter] is inspect.Parameter.empty, parameter
        else:
            # Their enums are not ours, but their values are.
            assert getattr(found[parameter], "value", found[parameter]) == getattr(default, "value", default)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(RunFilter, broadaxe.RunFilter), (BulkCancelReplayOpts, broadaxe.BulkCancelReplayOpts)],
)
def test_options_have_the_same_fields(theirs: Any, ours: Any) -> None:
    assert set(ours.model_fields) == set(theirs.model_fields)


def test_everything_has_an_asynchronous_form() -> None:
    for _, ours in CLIENTS:
        found = methods(ours)
        alone = {name for name in found if not name.startswith("aio_") and f"aio_{name}" not in found}
        assert alone <= {"get_run_ref", "subscribe_to_stream"}
