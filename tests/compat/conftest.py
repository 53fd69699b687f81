"""One real server for all of `tests/compat`, and unmodified hatchet-sdk workers and clients beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat.wire import BareWorker, Wire
from tests.processes import PYTHON, REPOSITORY, Process, Server, closing, role, server_directory

PYTHON_1375 = REPOSITORY / ".venv-compat-1375" / "bin" / "python"


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
def bare_worker(wire: Wire) -> Iterator["type[Workers]"]:
    """Makes bare workers that end with the test."""
    made: list[BareWorker] = []

    class Made(Workers):
        workers = made
        connection = wire

    yield Made
    for worker in made:
        worker.close()


class Workers:
    """See `bare_worker`."""

    workers: list[BareWorker]
    connection: Wire

    @classmethod
    def of(cls, *actions: str, **fields: Any) -> BareWorker:
        worker = BareWorker(cls.connection, *actions, **fields)
        cls.workers.append(worker)
        return worker


@dataclass
class Hatchet:
    """An unmodified hatchet-sdk: one worker process and one client process."""

    version: str
    worker: Process
    client: Process
    directory: Path


@pytest.fixture(scope="session", params=["newest", "1.37.5"])
def hatchet(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hatchet]:
    """Both versions in turn; each has a namespace, so that neither gets the other's tasks."""
    version = str(request.param)
    python = PYTHON if version == "newest" else str(PYTHON_1375)
    if not Path(python).exists():
        pytest.fail(f"{python} is missing: make it with `python tests/compat/setup_1375.py`")
    directory = tmp_path_factory.mktemp("hatchet")
    environment = server.client_environment()
    namespace = {"HATCHET_CLIENT_NAMESPACE": "compat" + version.replace(".", "")}
    worker = role(
        environment,
        "worker",
        "hatchet_sdk",
        "compat",
        "20",
        directory=directory,
        python=python,
        env=namespace,
    )
    client = role(environment, "client", "hatchet_sdk", directory=directory, python=python, env=namespace)
    with closing(worker, client):
        try:
            client.call(do="warm", timeout=90)
        except Exception as error:
            pytest.fail(
                f"hatchet-sdk {version} ran no task: {error}\nworker:\n{worker.tail()}\nserver:\n{server.process.tail()}"
            )
        yield Hatchet(version, worker, client, directory)
