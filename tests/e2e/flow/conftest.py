"""One real server for all of `tests/e2e/flow`; for each SDK a worker of ten slots, two labelled workers, and their clients."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.runs.conftest import (  # noqa: F401 - fixtures and a hook, used by their names
    SDKS,
    Sdk,
    pytest_collection_modifyitems,
    rest,
    server,
    serving,
    stage,
    wire,
)
from tests.e2e.runs.harness import FlowsUnderTest
from tests.processes import Server

SLOTS = 10
"""The number is in `flows/places.py` too."""
EAST: dict[str, str | int] = {"region": "east", "memory": 512, "model": "large"}
WEST: dict[str, str | int] = {"region": "west", "memory": 256, "model": "small"}
BOTH = {"east": EAST, "west": WEST}


@pytest.fixture(scope="session")
def served(
    server: Server,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Sdk], tuple[FlowsUnderTest, FlowsUnderTest]]]:
    """By SDK: what one worker serves, and what the two serve. All processes of an SDK start at once."""
    running: dict[str, tuple[FlowsUnderTest, FlowsUnderTest]] = {}
    with contextlib.ExitStack() as stack:

        def of(sdk: Sdk) -> tuple[FlowsUnderTest, FlowsUnderTest]:
            if sdk.label not in running:
                here = tmp_path_factory.mktemp
                one = serving(sdk, "places+limits", server, here("one"), SLOTS)
                two = serving(sdk, "routing", server, here("two"), SLOTS, BOTH)
                running[sdk.label] = (stack.enter_context(one), stack.enter_context(two))
            return running[sdk.label]

        yield of


@pytest.fixture(params=SDKS)
def flows(
    request: pytest.FixtureRequest, served: Callable[[Sdk], tuple[FlowsUnderTest, FlowsUnderTest]]
) -> Iterator[FlowsUnderTest]:
    """Groups, limits and priority, under each SDK: one worker, called `flows`."""
    one = served(request.param)[0]
    yield one
    one.open_all()


@pytest.fixture(params=SDKS)
def routed(
    request: pytest.FixtureRequest, served: Callable[[Sdk], tuple[FlowsUnderTest, FlowsUnderTest]]
) -> Iterator[FlowsUnderTest]:
    """Labels and stickiness, under each SDK: two workers, called `east` and `west`."""
    two = served(request.param)[1]
    yield two
    two.open_all()
