"""A kill -9 of the engine while a workflow is paused, and after: what is held stays so, in its order, and goes on with a fresh timeout."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from broadaxe import Broadaxe, ClientConfig
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, unique
from tests.processes import Server, closing, server_directory, wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


class Life:
    """A server between two kills: a client, the bare wire and a worker."""

    def __init__(self, server: Server, *actions: str) -> None:
        self.wire = Wire(server.grpc_address, server.token)
        config = ClientConfig(server_url=server.http_url)
        self.client = Broadaxe(token=server.token, host_port=server.grpc_address, config=config)
        self.worker = BareWorker(self.wire, *actions, slots=1) if actions else None

    def id_of(self, name: str) -> str:
        (row,) = self.client.workflows.list(name).rows or []
        return row.metadata.id

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.wire.close()
        self.client.close()


def test_a_paused_workflow_stays_paused_over_kills_and_goes_on_in_its_order(server: Server) -> None:
    name, brief, free = unique("paused"), unique("brief"), unique("free")
    before = Life(server)
    action = before.wire.put_workflow(name, schedule_timeout="12s")
    other = before.wire.put_workflow(free)
    before.wire.put_workflow(brief, schedule_timeout="5m")
    runs = [before.wire.trigger(name) for _ in range(3)]
    workflow_id, brief_id = before.id_of(name), before.id_of(brief)
    before.client.workflows.pause(workflow_id, timedelta(hours=1), "DROP")
    before.client.workflows.pause(brief_id, timedelta(seconds=1))
    runs += [before.wire.trigger(name) for _ in range(3)]
    expired = before.wire.trigger(brief)
    before.close()

    server.kill9()
    server.start()
    during = Life(server, action, other)
    shown = during.client.workflows.get(workflow_id)
    assert (shown.is_paused, shown.paused_workflow_cron_run_queue_behavior) == (True, "DROP")
    goes = during.wire.trigger(free)
    started = during.worker.next()
    assert started.workflow_run_id == goes  # the worker has a slot, and gets nothing of what is paused
    during.wire.complete(started)
    assert during.worker.stream.silent_for(13.0)  # longer than the schedule timeout
    wait_until(
        lambda: during.wire.details(expired).status == v1.CANCELLED,
        what="the run of the brief pause to be given up",
    )
    assert {during.wire.details(run_id).status for run_id in runs} == {v1.QUEUED}
    during.close()

    server.kill9()
    server.start()
    after = Life(server)
    after.client.workflows.unpause(workflow_id)
    after.close()

    server.kill9()
    server.start()
    last = Life(server, action)
    assert not last.client.workflows.get(workflow_id).is_paused
    for run_id in runs:  # their own deadlines have long passed
        started = last.worker.next()
        assert started.workflow_run_id == run_id
        last.wire.complete(started)
    last.close()
