"""Bad input gets a clear error and changes nothing.

Each test names the mistake, and checks three things: the kind of refusal, that its text says what was wrong and with what, and that the record
holds what it held before.
"""

# ruff: noqa: A002 - `input` is the name that user code has

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from broadaxe import Broadaxe, Context, EmptyModel
from broadaxe._errors import BroadaxeError, DefinitionError
from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.wire import Wire, code_of, unique
from tests.processes import Process, Server, closing, free_port, role, server_directory, wait_until

pytestmark = pytest.mark.timeout(120)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
COUNTS = """
SELECT (SELECT count(*) FROM task_run) + (SELECT count(*) FROM task_run_history) AS runs,
    (SELECT count(*) FROM workflow_version) AS versions, (SELECT count(*) FROM worker) AS workers,
    (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM api_token) AS tokens
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    bare = Wire(server.grpc_address, server.token)
    yield bare
    bare.close()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broadaxe]:
    for name, value in server.client_environment().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    one = Broadaxe()
    yield one
    one.close()


def counts(server: Server) -> dict[str, int]:
    """How much the record holds of each thing that bad input must not add."""

    async def read() -> dict[str, int]:
        connection = await server.connect_postgres()
        try:
            row = await connection.fetchrow(COUNTS)
            assert row is not None
            return dict(row)
        finally:
            await connection.close()

    return asyncio.run(read())


@contextmanager
def unchanged(server: Server) -> Iterator[None]:
    before = counts(server)
    yield
    assert counts(server) == before


def refused(server: Server, call: Callable[[], object], code: grpc.StatusCode, *words: str) -> str:
    """The call fails with that code and with each of the words in its text, and leaves the record as it was."""
    with unchanged(server):
        found, text = code_of(call)
    assert found == code, text
    for word in words:
        assert word.lower() in text.replace(",", "").lower(), text
    return text


# ---- triggers


def test_unknown_workflow(server: Server, wire: Wire) -> None:
    name = unique("nobody-registered")
    refused(server, lambda: wire.trigger(name), INVALID, name)


def test_unknown_workflow_through_the_sdk(server: Server, client: Broadaxe) -> None:
    name = unique("never-registered")

    @client.task(name=name)
    def never(input: EmptyModel, ctx: Context) -> None: ...

    with unchanged(server), pytest.raises(BroadaxeError, match=name):
        never.run()


@pytest.mark.parametrize("text", ["{", "{'single': 1}", '{"a": NaN}', '{"nul": "\\u0000"}', "{} {}"])
def test_malformed_json_input(server: Server, wire: Wire, text: str) -> None:
    name = unique("malformed")
    wire.put_workflow(name)
    refused(server, lambda: wire.trigger(name, text), INVALID, "input")


def test_malformed_metadata(server: Server, wire: Wire) -> None:
    name = unique("metadata")
    wire.put_workflow(name)
    refused(server, lambda: wire.trigger(name, additional_metadata="{nope"), INVALID, "metadata")


@pytest.mark.parametrize("priority", [0, 4, -1])
def test_priority_out_of_range(server: Server, wire: Wire, priority: int) -> None:
    name = unique("priority")
    wire.put_workflow(name)
    refused(server, lambda: wire.trigger(name, priority=priority), INVALID, "priority", str(priority))


def test_oversized_message(server: Server, wire: Wire) -> None:
    name = unique("oversized")
    wire.put_workflow(name)
    big = json.dumps({"text": "x" * (5 << 20)})
    refused(server, lambda: wire.trigger(name, big), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")


def test_oversized_input_through_the_sdk(server: Server, client: Broadaxe) -> None:
    name = unique("oversized")

    @client.task(name=name)
    def big(input: dict[str, str], ctx: Context) -> None: ...

    with unchanged(server), pytest.raises(BroadaxeError, match=r"(?i)bytes|size|large"):
        big.run({"text": "x" * (5 << 20)})


def bulk(name: str, count: int) -> workflows.BulkTriggerWorkflowRequest:
    entry = triggers.TriggerWorkflowRequest(name=name, input="{}")
    return workflows.BulkTriggerWorkflowRequest(workflows=[entry] * count)


def test_bulk_above_its_limit(server: Server, wire: Wire) -> None:
    name = unique("bulk")
    wire.put_workflow(name)
    response = workflows.BulkTriggerWorkflowResponse
    method = "/WorkflowService/BulkTriggerWorkflow"
    refused(server, lambda: wire.unary(method, bulk(name, 1001), response), INVALID, "1000", "1001")
    assert len(wire.unary(method, bulk(name, 1000), response).workflow_run_ids) == 1000


def test_one_bad_entry_refuses_the_whole_bulk(server: Server, wire: Wire) -> None:
    name = unique("bulk")
    wire.put_workflow(name)
    good = triggers.TriggerWorkflowRequest(name=name, input="{}")
    bad = triggers.TriggerWorkflowRequest(name=name, input="{")
    unknown = triggers.TriggerWorkflowRequest(name=unique("unknown"), input="{}")
    refused(server, lambda: wire.bulk_trigger(good, bad, good), INVALID)
    refused(server, lambda: wire.bulk_trigger(good, unknown), INVALID, unknown.name)


# ---- tokens and ids


def test_invalid_token(server: Server) -> None:
    for token in ("", "nonsense", server.token[:-6] + "AAAAAA"):
        bad = Wire(server.grpc_address, token)
        refused(server, partial(bad.trigger, "any"), grpc.StatusCode.UNAUTHENTICATED)
        bad.close()


def test_expired_token(server: Server) -> None:
    token = server.command(
        "token", "create", "--data-dir", str(server.data_dir), "--expires-in", "1s"
    ).strip()
    late = Wire(server.grpc_address, token)
    threading.Event().wait(2.1)  # a second is the shortest life of a token
    refused(server, lambda: late.trigger("any"), grpc.StatusCode.UNAUTHENTICATED)
    late.close()


def test_invalid_token_through_the_sdk(server: Server, client: Broadaxe) -> None:
    stranger = Broadaxe(token=server.token[:-6] + "AAAAAA")

    @stranger.task(name=unique("token"))
    def any_task(input: EmptyModel, ctx: Context) -> None: ...

    with unchanged(server), pytest.raises(BroadaxeError, match=r"(?i)token|unauthenticated"):
        any_task.run()
    stranger.close()


def test_foreign_tenants_token_sees_and_changes_nothing(server: Server, wire: Wire) -> None:
    name = unique("ours")
    wire.put_workflow(name)
    run_id = wire.trigger(name)
    worker_id = wire.register(f"{name}:only")
    foreign = Wire(server.grpc_address, server.new_tenant(unique("foreign")))
    not_found = grpc.StatusCode.NOT_FOUND
    refused(server, lambda: foreign.details(run_id), not_found)
    refused(server, lambda: foreign.heartbeat(worker_id), not_found)
    refused(server, lambda: foreign.trigger(name), INVALID, name)
    action = dispatcher.AssignedAction(task_run_external_id=run_id)
    refused(server, lambda: foreign.complete(action), INVALID)
    assert foreign.listen(worker_id).ended() == not_found
    assert wire.details(run_id).status == v1.QUEUED
    foreign.close()


def test_unknown_ids(server: Server, wire: Wire) -> None:
    unknown = str(uuid.uuid4())
    not_found = grpc.StatusCode.NOT_FOUND
    refused(server, lambda: wire.details(unknown), not_found)
    refused(server, lambda: wire.details("not-an-id"), INVALID)
    refused(server, lambda: wire.heartbeat(unknown), not_found)
    refused(server, lambda: wire.put_stream(unknown, b"x"), not_found)
    refused(server, lambda: wire.put_stream("not-an-id", b"x"), INVALID)
    labels = dispatcher.UpsertWorkerLabelsRequest(worker_id=unknown)
    response = dispatcher.UpsertWorkerLabelsResponse
    refused(server, lambda: wire.unary("/Dispatcher/UpsertWorkerLabels", labels, response), not_found)


# ---- definitions


def definition(
    name: str, *tasks: tuple[str, tuple[str, ...]], **fields: Any
) -> v1.CreateWorkflowVersionRequest:
    return v1.CreateWorkflowVersionRequest(
        name=name,
        tasks=[
            v1.CreateTaskOpts(readable_id=task, action=f"{name}:{task}", parents=parents, **fields)
            for task, parents in tasks
        ],
    )


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([("a", ("b",)), ("b", ("a",))], ["cycle", "a"]),
        ([("a", ("a",))], ["a"]),
        ([("a", ("ghost",))], ["ghost"]),
        ([("a", ()), ("a", ())], ["a"]),
        ([], ["task"]),
        ([("spa ce", ())], ["spa ce"]),
    ],
    ids=["cycle", "self-cycle", "unknown-parent", "duplicate-task", "no-task", "bad-name"],
)
def test_definition_that_cannot_work(
    server: Server, wire: Wire, tasks: list[tuple[str, tuple[str, ...]]], words: list[str]
) -> None:
    refused(server, lambda: wire.put(definition(unique("bad"), *tasks)), INVALID, *words)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"timeout": "5 minutes"}, "5 minutes"),
        ({"schedule_timeout": "1d"}, "1d"),
        ({"retries": -1}, "retries"),
        ({"backoff_factor": 0.5}, "0.5"),
    ],
    ids=["timeout", "schedule-timeout", "retries", "backoff"],
)
def test_task_setting_that_cannot_work(server: Server, wire: Wire, fields: dict[str, Any], word: str) -> None:
    refused(server, lambda: wire.put(definition(unique("bad"), ("a", ()), **fields)), INVALID, word)


def test_worker_that_cannot_register(server: Server, wire: Wire) -> None:
    refused(server, lambda: wire.register("no-colon"), INVALID, "no-colon")
    refused(server, lambda: wire.register("a:b", name="spa ce"), INVALID, "spa ce")


def test_duplicate_task_names_through_the_sdk(client: Broadaxe) -> None:
    workflow = client.workflow(name=unique("twice"))

    @workflow.task(name="same")
    def first(input: EmptyModel, ctx: Context) -> None: ...

    with pytest.raises(DefinitionError, match="same"):

        @workflow.task(name="same")
        def second(input: EmptyModel, ctx: Context) -> None: ...


def test_function_with_the_wrong_signature(client: Broadaxe) -> None:
    with pytest.raises(DefinitionError, match="nothing_given"):

        @client.task()  # type: ignore[arg-type]  # wrong on purpose
        def nothing_given() -> None: ...

    with pytest.raises(DefinitionError, match="input_alone"):

        @client.task()  # type: ignore[arg-type]  # wrong on purpose
        def input_alone(input: EmptyModel) -> None: ...

    with pytest.raises(DefinitionError, match="one_too_many"):

        @client.task()
        def one_too_many(input: EmptyModel, ctx: Context, third: int) -> None: ...

    with pytest.raises(DefinitionError, match="yields"):

        @client.task()
        def generator(input: EmptyModel, ctx: Context) -> Iterator[int]:
            yield 1


def test_output_that_is_not_json_serialisable_fails_the_run_and_names_the_task(
    server: Server, tmp_path: Path
) -> None:
    environment = server.client_environment()
    worker = role(environment, "worker", "broadaxe", "bad-output", "5", directory=tmp_path)
    caller = role(environment, "client", "broadaxe", directory=tmp_path)
    with closing(worker, caller):
        caller.call(do="warm", timeout=60)
        answer = caller.call(do="run", task="unserialisable", item={"index": 1})
        assert "unserialisable" in answer["raised"]["text"]
        assert "JSON" in answer["raised"]["text"]
        assert caller.call(do="run", task="echo", item={"index": 2})["output"]["index"] == 2


# ---- starting a server


def start_fails(directory: Path, env: dict[str, str | None], *arguments: str) -> str:
    """The output of a server that must refuse to start, with exit code 1 and without a traceback."""
    one = Server(directory, env=env, arguments=arguments)
    with closing(one):
        process = one.launch()
        wait_for_end(process)
        assert process.stop() == 1, process.output()
        text = process.output()
    assert "Traceback" not in text, text
    assert "broadaxe is ready" not in text
    return text


def wait_for_end(process: Process) -> None:
    wait_until(lambda: not process.is_running, what=f"{process.name} to give up", timeout=60)


def test_unreachable_database(tmp_path: Path) -> None:
    port = free_port()
    text = start_fails(tmp_path, {"DATABASE_URL": f"postgresql://someone:secret@127.0.0.1:{port}/db"})
    assert f"127.0.0.1:{port}" in text
    assert "DATABASE_URL" in text
    assert "secret" not in text


def test_too_old_database(tmp_path: Path) -> None:
    with old_postgres("14.9") as port:
        text = start_fails(tmp_path, {"DATABASE_URL": f"postgresql://someone@127.0.0.1:{port}/db"})
    assert "PostgreSQL 14.9," in text
    assert "15" in text


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag, setting in (("--grpc-port", "SERVER_GRPC_PORT"), ("--http-port", "SERVER_PORT")):
            text = start_fails(tmp_path / flag, {}, flag, str(port))
            assert str(port) in text
            assert setting in text


def test_data_directory_in_use_by_another_server(server: Server, tmp_path: Path) -> None:
    text = start_fails(tmp_path, {}, "--data-dir", str(server.data_dir))
    assert str(server.data_dir) in text
    assert str(server.process.pid) in text
    assert server.process.is_running


def test_database_in_use_by_another_engine(server: Server, tmp_path: Path) -> None:
    host, port = server.postgres_address()
    url = f"postgresql://postgres@/postgres?host={host}&port={port}"
    text = start_fails(tmp_path, {"DATABASE_URL": url})
    assert "in use by another engine" in text
    assert server.process.is_running


def test_token_for_an_unknown_tenant(server: Server) -> None:
    unknown = str(uuid.uuid4())
    with unchanged(server), pytest.raises(RuntimeError, match=unknown):
        server.command("token", "create", "--data-dir", str(server.data_dir), "--tenant-id", unknown)


@contextmanager
def old_postgres(version: str) -> Iterator[int]:
    """Something that greets like a Postgres of that version: no such old server is at hand, and nothing is asked of it after."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    greeting = (
        message(b"R", (0).to_bytes(4, "big"))
        + message(b"S", b"server_version\x00" + version.encode() + b"\x00")
        + message(b"S", b"client_encoding\x00UTF8\x00")
        + message(b"S", b"integer_datetimes\x00on\x00")
        + message(b"S", b"standard_conforming_strings\x00on\x00")
        + message(b"S", b"TimeZone\x00UTC\x00")
        + message(b"K", (1).to_bytes(4, "big") * 2)
        + message(b"Z", b"I")
    )

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            threading.Thread(target=greet, args=(connection,), daemon=True).start()

    def greet(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(8):
                if int.from_bytes(head[4:8], "big") == 80877103:  # a request for TLS
                    connection.sendall(b"N")
                    continue
                connection.recv(65536)
                connection.sendall(greeting)
                while connection.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
