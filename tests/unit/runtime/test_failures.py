"""The failure rules at the head of `runtime/local.py`, one test each."""

import asyncio

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.runtime import Actor, ActorStopped, Runtime


class Log(Actor):
    def __init__(self):
        self.lines = []

    def add(self, line):
        self.lines.append(line)

    def read(self):
        return list(self.lines)


class Journal(Actor):
    def append(self, *said):
        raise AssertionError(f"nothing was to be recorded, but {said} was")


class Fragile(Actor):
    def __init__(self, log):
        self.log = log
        self.child = None

    def say_and_raise(self, error):
        self.log.add.send("must not be heard")
        self.record("must not be recorded")
        self.send_after_commit(self.log.add, "nor this")
        self.fetch(asyncio.sleep, 0, then=self.me.fetched)
        self.actor_inbox.runtime.stop(self.log)
        raise error

    def spawn_and_raise(self, spawned):
        spawned.append(self.actor_inbox.runtime.spawn(Fragile, self.log, lane=self.lane))
        spawned[0].healthy.send()
        raise ValueError("after spawning")

    def healthy(self):
        self.log.add.send("healthy")

    def fetched(self, *outcome):
        raise AssertionError("a dropped fetch ran")

    def on_failure(self, kind, error, traceback):
        self.log.add.send(f"on_failure {kind.__name__}")


@pytest.fixture
async def crashes():
    return []


@pytest.fixture
async def runtime(crashes):
    runtime = Runtime(on_crash=crashes.append)
    runtime.connect(journal=runtime.spawn(Journal))
    yield runtime
    await runtime.stop_all()


@pytest.fixture
async def log(runtime):
    return runtime.spawn(Log, lane="b")


@pytest.fixture
async def fragile(runtime, log):
    return runtime.spawn(Fragile, log, lane="a")


async def test_a_handler_that_raises_has_said_nothing(crashes, log, fragile):
    fragile.say_and_raise.send(ValueError("no"))
    await settle()
    assert await log.read.remote() == ["on_failure ValueError"]
    assert len(crashes) == 1


async def test_actors_spawned_by_a_handler_that_raises_are_stopped(runtime, log, fragile):
    spawned = []
    fragile.spawn_and_raise.send(spawned)
    await settle()
    assert not spawned[0].is_alive
    assert runtime.count("a") == 0
    assert await log.read.remote() == ["on_failure ValueError"]


async def test_a_crash_stops_the_actor_drops_its_inbox_and_tells_callers(crashes, log, fragile):
    error = ValueError("no")
    fragile.healthy.send()
    fragile.say_and_raise.send(error)
    fragile.healthy.send()
    waiting = fragile.healthy.remote()
    with pytest.raises(ActorStopped):
        await waiting
    assert not fragile.is_alive
    assert await log.read.remote() == ["healthy", "on_failure ValueError"]
    assert crashes == [(fragile, "a", "say_and_raise", (error,), error)]


async def test_an_asked_handler_that_raises_answers_and_crashes(crashes, fragile):
    with pytest.raises(ValueError, match="no"):
        await fragile.say_and_raise.remote(ValueError("no"))
    assert not fragile.is_alive
    assert len(crashes) == 1


async def test_other_actors_go_on(runtime, log, fragile):
    other = runtime.spawn(Fragile, log, lane="a")
    fragile.say_and_raise.send(ValueError("no"))
    await other.healthy.remote()
    assert other.is_alive


async def test_refused_to_a_caller_is_an_answer_and_no_crash(crashes, log, fragile):
    with pytest.raises(Refused, match="not today"):
        await fragile.say_and_raise.remote(Refused(Code.NOT_FOUND, "not today"))
    await fragile.healthy.remote()
    assert await log.read.remote() == ["healthy"]
    assert crashes == []


async def test_refused_on_a_one_way_message_is_a_crash(crashes, fragile):
    fragile.say_and_raise.send(Refused(Code.NOT_FOUND, "not today"))
    await settle()
    assert [type(crash.error) for crash in crashes] == [Refused]
    assert not fragile.is_alive


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), BaseException("odd")])
async def test_other_base_exceptions_are_crashes_like_any_other(runtime, crashes, log, fragile, error):
    other = runtime.spawn(Fragile, log, lane="a")
    with pytest.raises(RuntimeError, match="raised") as caught:
        await fragile.say_and_raise.remote(error)
    assert caught.value.__cause__ is error
    assert [crash.error for crash in crashes] == [error]
    await other.healthy.remote()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_goes_on_and_other_actors_keep_their_messages(error):
    crashes = []
    loop = asyncio.new_event_loop()
    runtime = Runtime(loop=loop, on_crash=crashes.append)
    runtime.connect(journal=runtime.spawn(Journal))
    log = runtime.spawn(Log, lane="b")
    fragile = runtime.spawn(Fragile, log, lane="a")
    fragile.say_and_raise.send(error())
    for number in range(3):
        log.add.send(number)
    with pytest.raises(error):
        loop.run_forever()
    assert not fragile.is_alive

    async def read():
        lines = await log.read.remote()
        await runtime.stop_all()
        return lines

    assert loop.run_until_complete(read()) == [0, 1, 2, f"on_failure {error.__name__}"]
    assert crashes == []
    loop.close()


async def test_on_crash_raising_is_reported_to_the_loop_and_stops_nothing_else():
    def broken(_crash):
        raise LookupError("the supervisor failed too")

    reported = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: reported.append(context["exception"])
    )
    runtime = Runtime(on_crash=broken)
    runtime.connect(journal=runtime.spawn(Journal))
    log = runtime.spawn(Log)
    runtime.spawn(Fragile, log).say_and_raise.send(ValueError("no"))
    await settle()
    assert await log.read.remote() == ["on_failure ValueError"]
    assert [type(error) for error in reported] == [LookupError]
    await runtime.stop_all()


async def test_on_crash_may_stop_the_lane_and_build_it_anew(log):
    built = []

    def rebuild(crash):
        runtime.stop_lane(crash.lane)
        built.append(runtime.spawn(Fragile, new_log, lane=crash.lane))
        built[0].healthy.send()

    runtime = Runtime(on_crash=rebuild)
    runtime.connect(journal=runtime.spawn(Journal))
    new_log = runtime.spawn(Log)
    old = [runtime.spawn(Fragile, new_log, lane="a") for _ in range(3)]
    for each in old:
        each.healthy.send()
        each.say_and_raise.send(ValueError("no"))
    await settle()
    assert await new_log.read.remote() == ["healthy", "on_failure ValueError", "healthy"]
    assert not any(each.is_alive for each in old)
    assert built[0].is_alive
    assert runtime.count("a") == 1
    await runtime.stop_all()


async def test_a_hook_that_raises_is_reported_as_a_crash_of_that_hook(runtime, crashes):
    class BadEnd(Actor):
        def on_stop(self):
            raise ValueError("at the end")

    bad = runtime.spawn(BadEnd, lane="c")
    other = runtime.spawn(Log, lane="c")
    runtime.stop_lane("c")
    assert [(crash.handle, crash.method) for crash in crashes] == [(bad, "on_stop")]
    assert not other.is_alive


async def test_a_constructor_that_raises_raises_at_spawn_and_leaves_nothing(runtime, log):
    class Unborn(Actor):
        def __init__(self, log):
            log.add.send("must not be heard")
            self.record("nor this")
            raise ValueError("unborn")

    with pytest.raises(ValueError, match="unborn"):
        runtime.spawn(Unborn, log, lane="c")
    assert runtime.count("c") == 0
    assert await log.read.remote() == []


async def test_crashes_are_logged_when_nobody_supervises(caplog):
    runtime = Runtime()
    runtime.spawn(Fragile, runtime.spawn(Log)).say_and_raise.send(ValueError("no"))
    await settle()
    assert "crashed in say_and_raise" in caplog.text
    await runtime.stop_all()


async def settle():
    """Let everything that is due run: a few turns of the loop, in each of which the runtime has a slice."""
    for _ in range(5):
        await asyncio.sleep(0)
