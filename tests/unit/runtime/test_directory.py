"""Keyed actors: activated on send, retired only with nothing waiting."""

import asyncio

import pykka
import pytest

from broadaxe_actors.runtime import Actor, ActorStopped, Directory, Runtime


class Group(Actor):
    """Remembers its names; retires when told that it may."""

    def __init__(self, key, log):
        self.key = key
        self.log = log
        self.names = []
        log.append(f"{key} born")

    def on_stop(self):
        self.log.append(f"{self.key} gone with {self.names}")

    def add(self, name):
        self.names.append(name)

    def finish(self):
        self.retire()

    def finish_but_tell_self(self):
        self.retire()
        self.me.add.send("self")

    def finish_but_fetch(self):
        self.fetch(asyncio.sleep, 0, "fetched", then=self.me.fetched)
        self.retire()

    def fetched(self, _context, result, _error):
        self.names.append(result)

    def read(self):
        return list(self.names)

    def crash(self):
        raise ValueError(self.key)


@pytest.fixture
def log():
    return []


@pytest.fixture
async def runtime():
    runtime = Runtime(on_crash=lambda crash: None)
    yield runtime
    await runtime.stop_all()


@pytest.fixture
async def directory(runtime, log):
    return Directory(runtime, lambda key: runtime.spawn(Group, key, log, lane="t"))


async def test_the_first_send_activates_and_later_ones_find_the_same(directory, log):
    directory.send("a", "add", 1)
    directory.send("a", "add", 2)
    directory.send("b", "add", 3)
    assert await directory.activate("a").read.remote() == [1, 2]
    assert log == ["a born", "b born"]
    assert (len(directory), sorted(directory), "a" in directory) == (2, ["a", "b"], True)


async def test_an_actor_retires_with_an_empty_inbox_and_the_next_send_activates_another(directory, log):
    directory.send("a", "add", 1)
    directory.send("a", "finish")
    await asyncio.sleep(0)
    assert directory.get("a") is None
    directory.send("a", "add", 2)
    assert await directory.activate("a").read.remote() == [2]
    assert log == ["a born", "a gone with [1]", "a born"]


async def test_an_actor_with_mail_does_not_retire(directory):
    directory.send("a", "finish")
    directory.send("a", "add", 1)
    assert await directory.activate("a").read.remote() == [1]


async def test_what_a_retiring_actor_sends_itself_keeps_it(directory):
    directory.send("a", "finish_but_tell_self")
    await asyncio.sleep(0)
    assert await directory.activate("a").read.remote() == ["self"]


async def test_an_actor_that_awaits_a_fetch_does_not_retire(directory):
    directory.send("a", "finish_but_fetch")
    for _ in range(5):
        await asyncio.sleep(0)
    assert await directory.activate("a").read.remote() == ["fetched"]


async def test_retire_from_outside_tells_whether_the_actor_is_gone(directory):
    directory.send("a", "add", 1)
    assert directory.retire("a") is False
    await asyncio.sleep(0)
    assert directory.retire("a") is True
    assert directory.retire("a") is True
    assert len(directory) == 0


async def test_retire_from_outside_is_refused_inside_a_handler(runtime, directory):
    class Rude(Actor):
        def work(self):
            directory.retire("a")

    directory.send("a", "add", 1)
    with pytest.raises(RuntimeError, match="inside a handler"):
        await runtime.spawn(Rude).work.remote()


async def test_a_crashed_or_stopped_actor_is_forgotten(runtime, directory):
    handle = directory.activate("a")
    with pytest.raises(ValueError, match="a"):
        await handle.crash.remote()
    assert directory.get("a") is None
    directory.send("a", "add", 1)
    runtime.stop_lane("t")
    assert len(directory) == 0
    directory.send("a", "add", 2)
    assert await directory.activate("a").read.remote() == [2]
    with pytest.raises(ActorStopped):
        await handle.read.remote()


async def test_a_keyed_method_finds_whichever_actor_there_is_when_it_sends(directory):
    method = directory.method("a", "add")
    method.send(1)
    directory.send("a", "finish")
    await asyncio.sleep(0)
    assert directory.get("a") is None
    method.send(2)
    assert await directory.activate("a").read.remote() == [2]


async def test_an_actor_activated_by_a_handler_that_raises_is_gone_again(runtime, directory):
    class Caller(Actor):
        def work(self):
            directory.send("a", "add", 1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await runtime.spawn(Caller).work.remote()
    assert directory.get("a") is None


async def test_none_is_in_pykkas_registry(directory):
    directory.send("a", "add", 1)
    assert pykka.ActorRegistry.get_all() == []
