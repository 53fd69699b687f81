"""Idle clients stay connected: they ping every 10 s, gzip, and hear nothing for minutes."""

import time

import pytest

from tests.compat.conftest import Hatchet
from tests.compat.wire import BareWorker, Wire, unique


def stays_connected(hatchet: Hatchet, wire: Wire, seconds: float) -> None:
    name = unique("idle")
    bare = BareWorker(wire, wire.put_workflow(name))
    try:
        before = hatchet.worker.output()
        assert bare.stream.silent_for(seconds)
        news = hatchet.worker.output()[len(before) :]
        assert "error" not in news.lower(), news
        assert "connect" not in news.lower(), news
        assert bare.heartbeat_errors == []
        run_id = wire.trigger(name)
        assert bare.next(timeout=5).task_run_external_id == run_id
        begun = time.monotonic()
        assert (
            hatchet.client.call(do="run", task="echo", item={"index": 1}, timeout=10)["output"]["index"] == 1
        )
        assert time.monotonic() - begun < 5
    finally:
        bare.close()


@pytest.mark.timeout(240)
def test_idle_worker_stays_connected_for_a_minute(hatchet: Hatchet, wire: Wire) -> None:
    """Six pings of each channel: a server that counts them against the client hangs up before."""
    if hatchet.version != "newest":
        pytest.skip("the same channel settings as the newest, whose turn takes the minute")
    stays_connected(hatchet, wire, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_idle_worker_stays_connected_for_five_minutes(hatchet: Hatchet, wire: Wire) -> None:
    stays_connected(hatchet, wire, 300)
