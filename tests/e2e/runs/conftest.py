"""One real server for all of `tests/e2e/runs`; for each SDK a worker and a client that know the flows of `tests/roles/flows`."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat.conftest import PYTHON_1375
from tests.compat.wire import Wire
from tests.e2e.runs.harness import FlowsUnderTest
from tests.e2e.runs.stage import Stage
from tests.processes import PYTHON, Process, Server, closing, role, server_directory, wait_until
from tests.rest import Rest


@dataclass(frozen=True)
class Sdk:
    """An SDK and the interpreter that has it."""

    module: str
    python: str
    label: str


OURS = Sdk("broadaxe", PYTHON, "broadaxe")
NEWEST = Sdk("hatchet_sdk", PYTHON, "hatchet")
OLDER = Sdk("hatchet_sdk", str(PYTHON_1375), "hatchet1375")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Shared: a test that stops or kills its server starts one of its own."""
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    bare = Wire(server.grpc_address, server.token)
    yield bare
    bare.close()


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    bare = Rest(server.http_url, server.token)
    yield bare
    bare.close()


@pytest.fixture
def stage(wire: Wire, rest: Rest) -> Iterator[Stage]:
    one = Stage(wire, rest)
    yield one
    for worker in one.workers:
        worker.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See `of_the_engine`."""
    for item in items:
        if getattr(getattr(item, "function", None), "is_of_the_engine", False) and "[hatchet" in item.name:
            item.add_marker(pytest.mark.slow)


SDKS = [
    pytest.param(OURS, id="broadaxe"),
    pytest.param(NEWEST, id="hatchet"),
    pytest.param(OLDER, id="hatchet1375", marks=pytest.mark.slow),
]
TOPICS = "graphs+conditions+attempts+children+claims+batches+words+large+events"
SLOTS = 4_000
"""Enough for three levels of a thousand tasks of which two wait."""


@pytest.fixture(scope="session")
def served(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Sdk], FlowsUnderTest]]:
    """A worker and a client of all flows under each SDK that is asked for, kept to the end: an official worker takes its time to start."""
    running: dict[str, FlowsUnderTest] = {}
    with contextlib.ExitStack() as stack:

        def of(sdk: Sdk) -> FlowsUnderTest:
            if sdk.label not in running:
                directory = tmp_path_factory.mktemp("flows")
                running[sdk.label] = stack.enter_context(serving(sdk, TOPICS, server, directory, SLOTS))
            return running[sdk.label]

        yield of


@pytest.fixture(params=SDKS)
def flows(request: pytest.FixtureRequest, served: Callable[[Sdk], FlowsUnderTest]) -> FlowsUnderTest:
    """Every flow, served by a worker and triggered by a client of an SDK."""
    return served(request.param)


class serving:  # noqa: N801 - it is used as a function
    """`with serving(sdk, topics, server, directory, slots) as flows`: a worker and a client in a namespace of their own.

    workers: by name the labels of each; one called `flows` unless said otherwise.
    """

    def __init__(
        self,
        sdk: Sdk,
        topics: str,
        server: Server,
        directory: Path,
        slots: int,
        workers: Mapping[str, Mapping[str, str | int]] | None = None,
    ) -> None:
        if not Path(sdk.python).exists():
            pytest.fail(f"{sdk.python} is missing: make it with `python tests/compat/setup_1375.py`")
        records = directory / "records"
        records.mkdir(exist_ok=True)
        namespace = f"{topics.split('+', maxsplit=1)[0]}{sdk.label}"
        env = {
            "ROLE_RECORDS": str(records),
            "HATCHET_CLIENT_NAMESPACE": namespace,
            "BROADAXE_CLIENT_NAMESPACE": namespace,
        }
        shared = {"directory": directory, "python": sdk.python, "env": env}
        environment = server.client_environment()
        self.sdk = sdk
        self._names = list(workers or {"flows": {}})

        def start(name: str, labels: Mapping[str, str | int]) -> Process:
            arguments = (sdk.module, topics, str(slots), name, json.dumps(labels))
            return role(environment, "flow_worker", *arguments, **shared)

        self.workers = [start(name, labels) for name, labels in (workers or {"flows": {}}).items()]
        self.worker = self.workers[0]
        self.client = role(environment, "flow_client", sdk.module, topics, **shared)
        self.wire = Wire(server.grpc_address, server.token)
        self.rest = Rest(server.http_url, server.token)
        self.flows = FlowsUnderTest(
            sdk.module, server, self.worker, self.client, directory, self.wire, self.rest, namespace
        )

    def __enter__(self) -> FlowsUnderTest:
        try:
            self.client.call(do="warm", timeout=90)
            for name in self._names:
                wait_until(lambda name=name: self.flows.workers(name), what=f"worker {name}", timeout=60)
        except Exception as error:
            worker, server = self.worker.tail(), self.flows.server.process.tail()
            self.__exit__()
            pytest.fail(f"{self.sdk.label} ran no task: {error}\nworker:\n{worker}\nserver:\n{server}")
        return self.flows

    def __exit__(self, *_: object) -> None:
        self.flows.wire.close()
        self.flows.rest.close()
        for process in (self.client, *self.workers):
            process.kill9()  # how a worker stops in order is not the subject here, and takes an official one its time
