"""The probe, and the check for actors that hold actors."""

import asyncio
import functools
from collections import deque

import pytest

from broadaxe_actors.runtime import Actor, Directory, Runtime
from broadaxe_actors.runtime.testing import Fetched, Probe, Sent, SetTimer, assert_no_actor_objects, peer


class Everything(Actor):
    """Says one thing of each kind."""

    def __init__(self, other):
        self.other = other
        self.count = 0
        other.hello.send(self.lane)

    def silent(self):
        self.count += 1
        return self.count

    def speak(self):
        self.other.hello.send(1)
        self.record("record")
        self.send_after_commit(self.other.bye, 2)
        self.set_timer("soon", 5_000, self.me.due, "x")
        self.cancel_timer("later")
        self.fetch(asyncio.sleep, 3, then=self.me.fetched, context="c")
        self.retire()
        return "said"

    def due(self, word):
        self.other.due.send(word, self.clock.monotonic())

    def fetched(self, *outcome): ...

    def raise_after_speaking(self):
        self.speak()
        raise ValueError("no")

    def keyed(self):
        directory = Directory(self.actor_inbox.runtime, lambda key: None)
        self.send_after_commit(directory.method("key", "method"), 1)

    def breed(self):
        self.actor_inbox.runtime.spawn(Everything, self.other, lane="child")


def test_a_probe_returns_what_a_handler_says():
    other = peer("other")
    probe = Probe(Everything, other, lane="t")
    assert probe.born.sends == [Sent(other, "hello", ("t",))]
    said = probe.call("speak")
    assert said.result == "said"
    assert said.sends == [Sent(other, "hello", (1,))]
    assert said.records == ["record"]
    assert said.effects == [Sent(other, "bye", (2,))]
    assert said.timers == [SetTimer("soon", 5_000, "due", ("x",))]
    assert said.cancelled == ["later"]
    assert said.fetches == [Fetched(asyncio.sleep, (3,), "fetched", "c")]
    assert said.is_retiring
    assert not said.is_silent


def test_a_probe_keeps_the_actor_between_calls():
    probe = Probe(Everything, peer("other"))
    assert [probe.call("silent").result for _ in range(2)] == [1, 2]
    assert probe.actor.count == 2
    assert probe.call("silent").is_silent


def test_a_probe_fires_timers_at_their_time():
    other = peer("other")
    probe = Probe(Everything, other)
    (timer,) = probe.call("speak").timers
    assert probe.fire(timer).sends == [Sent(other, "due", ("x", 5_000))]


def test_a_handler_that_raises_raises_at_the_probe():
    probe = Probe(Everything, peer("other"))
    with pytest.raises(ValueError, match="no"):
        probe.call("raise_after_speaking")
    assert probe.call("silent").is_silent


def test_a_probe_tells_children_and_keys():
    other = peer("other")
    probe = Probe(Everything, other, lane="t")
    said = probe.call("breed")
    assert [child.actor_class for child in said.spawned] == [Everything]
    assert said.sends == [Sent(other, "hello", ("child",))]
    assert probe.call("keyed").effects == [Sent("key", "method", (1,))]


def test_a_typed_peer_has_the_handlers_of_its_class_only():
    typed = peer("typed", Everything)
    assert typed.silent.name == "silent"
    with pytest.raises(AttributeError, match="no handler 'silence'; did you mean 'silent'"):
        typed.silence  # noqa: B018


def test_a_probe_refuses_unknown_handlers():
    with pytest.raises(AttributeError):
        Probe(Everything, peer("other")).call("sing")


class Holder(Actor):
    def __init__(self, held):
        self.held = held


class Box:
    def __init__(self, thing):
        self.thing = thing


class SlottedBox:
    __slots__ = ("thing",)

    def __init__(self, thing):
        self.thing = thing


def closure_over(thing):
    return lambda: thing


WAYS = {
    "plainly": lambda actor: actor,
    "in a list": lambda actor: [1, [actor]],
    "in a dict": lambda actor: {"a": {"b": actor}},
    "as a key": lambda actor: {actor: 1},
    "in a tuple": lambda actor: ("x", (actor,)),
    "in a set": lambda actor: {actor},
    "in a deque": lambda actor: deque([actor]),
    "in an object": Box,
    "in a slot": SlottedBox,
    "by a bound method": lambda actor: actor.read,
    "in a closure": closure_over,
    "in a partial": lambda actor: functools.partial(print, actor),
    "deep down": lambda actor: {"a": [Box((SlottedBox(actor),))]},
}


class Target(Actor):
    def read(self): ...


@pytest.fixture
async def runtime():
    runtime = Runtime()
    yield runtime
    await runtime.stop_all()


@pytest.mark.parametrize("way", WAYS)
async def test_an_actor_held_in_any_way_is_found(runtime, way):
    runtime.spawn(Target)
    target = next(runtime.live_actors())
    runtime.spawn(Holder, WAYS[way](target))
    with pytest.raises(AssertionError, match=r"Holder\.held.* is a Target object"):
        assert_no_actor_objects(runtime)


async def test_handles_directories_and_methods_may_be_held(runtime):
    target = runtime.spawn(Target)
    directory = Directory(runtime, lambda key: runtime.spawn(Target))
    directory.activate("a")
    runtime.spawn(Holder, [target, target.read, directory, directory.method("a", "read"), runtime])
    await target.read.remote()
    assert_no_actor_objects(runtime)
