"""A kill -9 of the engine under runs of either SDK's own workers: graphs, sleeps, waits and retries go on."""

from pathlib import Path

import pytest

from tests.compat.random_graphs import answers
from tests.e2e.runs.conftest import NEWEST, OURS, Sdk, serving
from tests.processes import Server, closing, server_directory, wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("sdk", [pytest.param(OURS, id="broadaxe"), pytest.param(NEWEST, id="hatchet")])
def test_runs_go_on_after_a_kill(sdk: Sdk, tmp_path: Path) -> None:
    with server_directory() as directory, closing(server := Server(directory)):
        server.start()
        with serving(sdk, "graphs+conditions", server, tmp_path, slots=50) as flows:
            gate = flows.new_gate()
            held = [flows.start("diamond", {"left": {"gate": gate, "value": n}}) for n in range(5)]
            failing = flows.start("fork", {"broken": {"gate": gate, "error": "after all"}})
            cancelled = flows.start("chain", {"two": {"gate": gate}})
            slept, waiting, gone = flows.start("sleeps"), flows.start("event"), flows.start("skips-on-event")
            for run in held:
                run.reported("right")
                run.note("left")
            for run in (slept, waiting, gone):
                run.reported("start")
            failing.note("broken")
            cancelled.note("two")
            flows.call(do="cancel", run_id=cancelled.id)

            server.kill9()
            server.restart()
            wait_until(
                lambda: answers(flows.wire, cancelled.id), what="the channel to connect again", timeout=60
            )

            flows.open(gate)
            flows.push("event", {"after": "the kill"})
            flows.push("skips-on-event")
            for n, run in enumerate(held):
                end = run.end(timeout=90)
                assert end.status == "COMPLETED"
                assert end.output("bottom")["parents"] == {"left": n, "right": 1}
                assert run.ran("top") == run.ran("right") == 1
            assert failing.end(timeout=90).statuses["rescue"] == "COMPLETED"
            assert cancelled.end(timeout=30).status == "CANCELLED"
            assert slept.end(timeout=60).status == "COMPLETED"
            assert waiting.end(timeout=60).status == "COMPLETED"
            assert waiting.note("waiting", "sees triggers")["triggers"]["event"] == {"after": "the kill"}
            assert gone.end(timeout=60).output("chosen") == {"skipped": True}
            assert [run.ran("start") for run in (slept, waiting, gone)] == [1, 1, 1]
            assert flows.run("diamond")["output"]["bottom"]["value"] == 1
