"""One real server for all of `tests/e2e/runs`; for each module and SDK a worker and a client that know the flows of its `TOPIC`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat.conftest import PYTHON_1375
from tests.compat.wire import Wire
from tests.e2e.runs.harness import FlowsUnderTest
from tests.processes import PYTHON, Server, closing, role, server_directory
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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(OURS, id="broadaxe"),
        pytest.param(NEWEST, id="hatchet"),
        pytest.param(OLDER, id="hatchet1375", marks=pytest.mark.slow),
    ],
)
def flows(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlowsUnderTest]:
    """The flows of the module's `TOPIC`, served with its `SLOTS` (50), once under each SDK."""
    sdk: Sdk = request.param
    topic = request.module.TOPIC
    if not Path(sdk.python).exists():
        pytest.fail(f"{sdk.python} is missing: make it with `python tests/compat/setup_1375.py`")
    with serving(
        sdk, topic, server, tmp_path_factory.mktemp(topic), getattr(request.module, "SLOTS", 50)
    ) as one:
        yield one


class serving:  # noqa: N801 - it is used as a function
    """`with serving(sdk, topic, server, directory, slots) as flows`: a worker and a client in a namespace of their own."""

    def __init__(self, sdk: Sdk, topic: str, server: Server, directory: Path, slots: int) -> None:
        records = directory / "records"
        records.mkdir(exist_ok=True)
        namespace = f"{topic}{sdk.label}"
        env = {
            "ROLE_RECORDS": str(records),
            "HATCHET_CLIENT_NAMESPACE": namespace,
            "BROADAXE_CLIENT_NAMESPACE": namespace,
        }
        shared = {"directory": directory, "python": sdk.python, "env": env}
        environment = server.client_environment()
        self.sdk = sdk
        self.worker = role(environment, "flow_worker", sdk.module, topic, str(slots), **shared)
        self.client = role(environment, "flow_client", sdk.module, topic, **shared)
        self.wire = Wire(server.grpc_address, server.token)
        self.rest = Rest(server.http_url, server.token)
        self.flows = FlowsUnderTest(
            sdk.module, server, self.worker, self.client, directory, self.wire, self.rest
        )

    def __enter__(self) -> FlowsUnderTest:
        try:
            self.client.call(do="warm", timeout=90)
        except Exception as error:
            worker, server = self.worker.tail(), self.flows.server.process.tail()
            self.__exit__()
            pytest.fail(f"{self.sdk.label} ran no task: {error}\nworker:\n{worker}\nserver:\n{server}")
        return self.flows

    def __exit__(self, *_: object) -> None:
        with closing(self.worker, self.client):
            self.wire.close()
            self.rest.close()
