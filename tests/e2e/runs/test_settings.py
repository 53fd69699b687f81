"""`SERVER_REPLAY_ENABLED` and `SERVER_LOG_INGESTION_ENABLED`, switched off."""

import json
from collections.abc import Iterator

import grpc
import pytest

from tests.compat.calls import put_log, replay, tasks_filter
from tests.compat.wire import BareWorker, Wire, code_of, unique
from tests.processes import Server, closing, server_directory
from tests.rest import Rest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def off() -> Iterator[Server]:
    """A server of its own with both switched off."""
    settings = {"SERVER_REPLAY_ENABLED": "false", "SERVER_LOG_INGESTION_ENABLED": "false"}
    with server_directory() as directory, closing(one := Server(directory, env=settings)):
        yield one.start()


def test_replay_switched_off_is_refused_and_says_by_what(off: Server) -> None:
    wire, rest = Wire(off.grpc_address, off.token), Rest(off.http_url, off.token)
    try:
        name = unique("off")
        worker = BareWorker(wire, wire.put_workflow(name))
        run_id = wire.trigger(name)
        wire.fail(worker.next(), "no")
        assert wire.result(run_id).error == "no"
        for call in (lambda: replay(wire, run_id), lambda: replay(wire, filter=tasks_filter())):
            code, text = code_of(call)
            assert code in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED}, text
            assert "SERVER_REPLAY_ENABLED" in text
        answer = rest.raw("POST", "T/tasks/replay", json={"externalIds": [run_id]})
        assert answer.status_code >= 400
        assert "SERVER_REPLAY_ENABLED" in answer.text
        assert worker.stream.silent_for(0.5)
        assert wire.result(run_id).error == "no"
        worker.close()
    finally:
        wire.close()
        rest.close()


def test_log_ingestion_switched_off_drops_lines_quietly(off: Server) -> None:
    wire, rest = Wire(off.grpc_address, off.token), Rest(off.http_url, off.token)
    try:
        name = unique("off")
        worker = BareWorker(wire, wire.put_workflow(name))
        run_id = wire.trigger(name)
        action = worker.next()
        for index in range(5):
            put_log(wire, run_id, f"line {index}")
        wire.complete(action, '{"v": 1}')
        assert json.loads(wire.result(run_id).output) == {"v": 1}
        assert not rest.get(f"S/tasks/{run_id}/logs", limit=100).get("rows")
        worker.close()
    finally:
        wire.close()
        rest.close()
