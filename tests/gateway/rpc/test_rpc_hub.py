"""The hub alone: batches, answers, routes, end."""

import asyncio

import pytest

from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.hub import Hub
from tests.gateway.rpc.fakes import TENANT, FakeEngine, FakeLink, new_id, refusal


async def test_first_message_of_a_turn_leaves_at_once_and_the_others_as_one_batch_in_order():
    engine = FakeEngine()
    hub = Hub(engine)
    ids = [new_id() for _ in range(4)]
    for worker_id in ids[:3]:
        hub.tell(m.Heartbeat(0, TENANT, worker_id))
    assert [[message.worker_id for message in batch] for batch in engine.batches] == [ids[:1]]
    await asyncio.sleep(0)
    assert [[message.worker_id for message in batch] for batch in engine.batches] == [ids[:1], ids[1:3]]
    hub.tell(m.Heartbeat(0, TENANT, ids[3]))
    assert [message.worker_id for message in engine.batches[2]] == ids[3:]


async def test_refusal_is_raised_with_its_code():
    engine = FakeEngine()
    engine.answers[m.Heartbeat] = lambda q: refusal(Code.NOT_FOUND, "no such worker")
    with pytest.raises(Refused, match="no such worker") as error:
        await Hub(engine).ask(m.Heartbeat, TENANT, "w")
    assert error.value.code is Code.NOT_FOUND


async def test_answer_after_the_caller_left_is_dropped():
    link = FakeLink()
    hub = Hub(link)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.ask(m.Heartbeat, TENANT, "w"), 0.01)
    (asked,) = link.messages
    link.push(m.Reply(asked.request_id, None), m.Reply(asked.request_id, None), m.Reply(99, None))
    assert hub.requests_pending == 0


async def test_closing_sends_what_is_left_and_answers_who_waits():
    link = FakeLink()
    hub = Hub(link)
    waiting = asyncio.create_task(hub.ask(m.Heartbeat, TENANT, "w"))
    await link.seen(m.Heartbeat)
    hub.tell(m.Heartbeat(0, TENANT, "x"))
    hub.close()
    hub.close()
    assert len(link.messages) == 2
    with pytest.raises(Refused) as error:
        await waiting
    assert error.value.code is Code.UNAVAILABLE
    with pytest.raises(Refused):
        await hub.ask(m.Heartbeat, TENANT, "w")


async def test_session_that_the_engine_refused_is_forgotten():
    engine = FakeEngine()
    engine.answers[m.OpenSession] = lambda q: refusal(Code.NOT_FOUND, "no such worker")
    hub = Hub(engine)
    with pytest.raises(Refused):
        await hub.open_session(None, TENANT, "w", is_batched=True)
    assert hub.sessions_open == 0


async def test_unknown_message_is_logged_and_the_rest_goes_on(caplog):
    engine = FakeEngine()
    hub = Hub(engine)
    waiting = hub.request(m.GetStats, TENANT)
    engine.push("nonsense", m.Reply(1, "stats"))
    assert await waiting == "stats"
    assert "nonsense" in caplog.text


async def test_watchers_are_told_once_and_those_that_left_not_at_all():
    class Watcher:
        def __init__(self):
            self.told = []

        def run_finished(self, finished):
            self.told.append(finished.run_id)

    link = FakeLink()
    hub = Hub(link)
    stays, leaves = Watcher(), Watcher()
    hub.watch(TENANT, ["r"], stays)
    hub.watch(TENANT, ["r", "s"], leaves)
    hub.unwatch(TENANT, ["r", "s", "never"], leaves)
    await asyncio.sleep(0)
    assert link.of(m.UnwatchRuns) == [m.UnwatchRuns(TENANT, ("s",))]
    for _ in range(2):
        link.push(m.RunFinished(TENANT, "r", 6, ()))
    assert (stays.told, leaves.told) == (["r"], [])
