"""Retention on a real server: an old run is not found any more, neither by a read nor by a replay; periods are set by command."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, code_of
from tests.processes import Server, closing, server_directory, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


def ended_run(wire: Wire) -> str:
    action = wire.put_workflow("kept")
    worker = BareWorker(wire, action)
    try:
        run_id = wire.trigger("kept")
        ends = wire.runs(run_id)
        wire.complete(worker.next())
        ends.next()
        ends.cancel()
    finally:
        worker.close()
    return run_id


def make_old(server: Server, run_id: str, days: int) -> None:
    """As if the run had ended so many days ago."""

    async def move() -> None:
        connection = await server.connect_postgres()
        try:
            done = await connection.execute(
                "UPDATE task_run_history SET created_at = created_at - $2 * interval '1 day',"
                " finished_at = finished_at - $2 * interval '1 day' WHERE id = $1",
                run_id,
                days,
            )
        finally:
            await connection.close()
        assert done == "UPDATE 1"

    asyncio.run(move())


def test_what_is_past_its_period_is_not_found(server: Server) -> None:
    wire, rest = Wire(server.grpc_address, server.token), Rest(server.http_url, server.token)
    old, young = ended_run(wire), ended_run(wire)
    make_old(server, old, 33)
    make_old(server, young, 10)
    wire.close()
    server.stop()
    server.start()
    wire = Wire(server.grpc_address, server.token)
    wait_until(
        lambda: rest.raw("GET", f"S/workflow-runs/{old}").status_code == 404, what="the old run to be gone"
    )
    code, text = code_of(
        lambda: wire.unary(
            "/v1.AdminService/GetRunDetails",
            v1.GetRunDetailsRequest(external_id=old),
            v1.GetRunDetailsResponse,
        )
    )
    assert (code, old in text) == (grpc.StatusCode.NOT_FOUND, True)
    for run_id, acted in ((old, []), (young, [young])):
        answer = rest.raw("POST", "T/tasks/replay", json={"externalIds": [run_id]})
        assert (answer.status_code, answer.json()["ids"]) == (200, acted)
    wire.close()
    rest.close()


def test_a_tenant_has_a_period_of_its_own_by_command(server: Server) -> None:
    data_dir = ("--data-dir", str(server.data_dir))
    rest = Rest(server.http_url, server.token)

    def shown() -> str:
        return str(rest.get(f"tenants/{rest.tenant}")["dataRetentionPeriod"])

    assert server.command("tenant", "retention", "default", *data_dir) == "720h (the default)\n"
    assert shown() == "720h"
    assert server.command("tenant", "retention", rest.tenant, "--period", "7d", *data_dir) == "168h\n"
    assert shown() == "168h"
    assert server.command("tenant", "retention", "default", *data_dir) == "168h\n"
    for arguments, text in (
        (("nobody",), "no tenant has the slug or id 'nobody'"),
        (("default", "--period", "soon"), "'soon' is not a lifetime"),
        (("default", "--period", "1m"), "expected from 1h to 87600h"),
    ):
        with pytest.raises(RuntimeError, match=text):
            server.command("tenant", "retention", *arguments, *data_dir)
    assert shown() == "168h"
    server.command("tenant", "retention", "default", "--period", "default", *data_dir)
    assert shown() == "720h"
    rest.close()
