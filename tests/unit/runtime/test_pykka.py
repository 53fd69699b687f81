"""Actors are Pykka actors: its reference works on them, without a thread and without blocking the loop."""

import pykka
import pytest
from pykka._envelope import Envelope

from broadaxe_actors.runtime import Actor, ActorStopped, Runtime
from broadaxe_actors.runtime.handle import LoopFuture


class Plain(Actor):
    def __init__(self):
        self.got = []

    def on_receive(self, message):
        self.got.append(message)
        return len(self.got)

    def double(self, number):
        return 2 * number


@pytest.fixture
async def runtime():
    runtime = Runtime(on_crash=lambda crash: None)
    yield runtime
    await runtime.stop_all()


@pytest.fixture
async def ref(runtime):
    runtime.spawn(Plain)
    return next(runtime.live_actors()).actor_ref


async def test_tell_ask_and_proxy_calls(ref):
    ref.tell("one")
    assert await ref.ask("two", block=False) == 2
    call = pykka.messages.ProxyCall(attr_path=("double",), args=(21,), kwargs={})
    assert await ref.ask(call, block=False) == 42


async def test_waiting_would_block_the_loop_and_is_refused(ref):
    with pytest.raises(RuntimeError, match="await the future"):
        ref.ask("two")


async def test_stop_through_the_reference(ref):
    assert ref.is_alive()
    inbox = ref.actor_inbox
    before = ref.ask("before", block=False)
    stopped = ref.stop(block=False)
    after = ref.ask("after", block=False)
    assert await before == 1
    with pytest.raises(pykka.ActorDeadError):
        await after
    assert await stopped is True
    assert not ref.is_alive()
    with pytest.raises(pykka.ActorDeadError):
        await ref.ask("late", block=False)
    late = LoopFuture()
    inbox.put(Envelope("later still", reply_to=late))
    with pytest.raises(ActorStopped):
        await late


async def test_a_pykka_actor_that_raises_to_ask_crashes_by_our_rules(runtime):
    class Bad(Actor):
        def on_receive(self, message):
            raise ValueError(message)

    handle = runtime.spawn(Bad)
    ref = next(runtime.live_actors()).actor_ref
    with pytest.raises(ValueError, match="hello"):
        await ref.ask("hello", block=False)
    assert not handle.is_alive


async def test_the_inbox_is_the_runtimes_to_drain(ref):
    assert ref.actor_inbox.empty()
    with pytest.raises(RuntimeError, match="drained by its Runtime"):
        ref.actor_inbox.get()


async def test_every_actor_has_its_own_reference_and_name(runtime):
    runtime.spawn(Plain)
    runtime.spawn(Plain)
    one, two = runtime.live_actors()
    assert isinstance(one, pykka.Actor)
    assert one.actor_ref is one.actor_ref
    assert one.actor_urn != two.actor_urn
    assert not one.actor_stopped.is_set()
