"""The timekeeper: alone with a fake loop, then with other actors in virtual time."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadaxe_actors import timekeeper as module
from broadaxe_actors.runtime import Actor, Runtime, TimerChange, VirtualClock
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.runtime.virtual import run_virtual
from broadaxe_actors.timekeeper import FIRE_LIMIT, TICK_US, Timekeeper

SECOND = 1_000_000
DAY = 86_400 * SECOND


class FakeLoop:
    """Remembers the one timer that may be armed."""

    def __init__(self):
        self.armed = []
        self.calls = 0
        self.clock = VirtualClock()

    def time(self):
        return 1_000 + self.clock.monotonic() / 1_000_000

    def call_at(self, when, callback):
        alarm = FakeAlarm(self, when, callback)
        self.armed.append(alarm)
        self.calls += 1
        assert len(self.armed) == 1, "one loop timer at a time"
        return alarm


class FakeAlarm:
    def __init__(self, loop, when, callback):
        self.loop, self.when, self.callback = loop, when, callback

    def cancel(self):
        self.loop.armed.remove(self)


@pytest.fixture
def loop():
    return FakeLoop()


@pytest.fixture
def probe(loop):
    return Probe(Timekeeper, loop, clock=loop.clock)


@pytest.fixture
def owner():
    return peer("owner")


def set_timer(probe, owner, key, delay_us, *args):
    change = TimerChange(key, probe.clock.monotonic() + delay_us, owner.due, args or (key,))
    return probe.call("apply", owner, (change,))


def cancel_timer(probe, owner, key):
    return probe.call("apply", owner, (TimerChange(key, None, None, ()),))


def pass_time(probe, loop, until_us):
    """Ring the armed timer whenever it is due, up to a moment, and return (time, sends) of each wake."""
    heard = []
    while loop.armed:
        alarm = loop.armed[0]
        at = probe.clock.monotonic() + round((alarm.when - loop.time()) * 1_000_000)
        if at > until_us:
            break
        probe.clock.advance(at - probe.clock.monotonic())
        loop.armed.clear()
        # What the loop does when the timer is due; the message that it sends is run here instead of in the inbox.
        alarm.callback()
        said = probe.call("wake")
        heard.append((at, said.sends))
        while Sent(probe.handle, "wake", ()) in said.sends:
            said = probe.call("wake")
            heard.append((at, said.sends))
    probe.clock.advance(max(until_us - probe.clock.monotonic(), 0))
    return [(at, send) for at, sends in heard for send in sends if send.to is not probe.handle]


def test_no_loop_timer_without_timers(probe, loop, owner):
    assert loop.armed == []
    set_timer(probe, owner, "a", SECOND)
    assert len(loop.armed) == 1
    cancel_timer(probe, owner, "a")
    assert loop.armed == []
    assert probe.call("count").result == 0
    assert probe.actor._line == []


def test_a_timer_fires_once_within_a_tick_of_its_deadline(probe, loop, owner):
    set_timer(probe, owner, "a", 12_345)
    ((at, sent),) = pass_time(probe, loop, SECOND)
    assert 12_345 <= at <= 12_345 + TICK_US
    assert sent == Sent(owner, "due", ("a",))
    assert pass_time(probe, loop, DAY) == []
    assert loop.armed == []


def test_setting_a_key_again_replaces_its_timer(probe, loop, owner):
    set_timer(probe, owner, "a", SECOND, "old")
    set_timer(probe, owner, "a", 2 * SECOND, "new")
    ((at, sent),) = pass_time(probe, loop, DAY)
    assert at >= 2 * SECOND
    assert sent.args == ("new",)


def test_the_same_key_of_another_actor_is_another_timer(probe, loop, owner):
    other = peer("other")
    set_timer(probe, owner, "a", SECOND)
    set_timer(probe, other, "a", SECOND)
    cancel_timer(probe, owner, "a")
    assert [sent.to for _, sent in pass_time(probe, loop, DAY)] == [other]


def test_a_nearer_timer_moves_the_loop_timer_and_a_farther_one_does_not(probe, loop, owner):
    set_timer(probe, owner, "far", 2 * SECOND)
    set_timer(probe, owner, "farther", 10 * SECOND)
    assert loop.calls == 1
    set_timer(probe, owner, "near", SECOND // 10)
    assert loop.calls == 2
    assert [sent.args for _, sent in pass_time(probe, loop, DAY)] == [("near",), ("far",), ("farther",)]


def test_a_timer_already_due_leaves_with_the_next_wake(probe, loop, owner):
    probe.clock.advance(SECOND)
    said = set_timer(probe, owner, "a", 0)
    assert said.sends == [Sent(probe.handle, "wake", ())]
    assert [sent.args for sent in probe.call("wake").sends] == [("a",)]
    assert loop.armed == []


def test_one_wake_is_on_its_way_at_most(probe, loop, owner):
    assert len(set_timer(probe, owner, "a", 0).sends) == 1
    assert set_timer(probe, owner, "b", 0).is_silent
    assert [sent.args for sent in probe.call("wake").sends] == [("a",), ("b",)]
    assert len(set_timer(probe, owner, "c", 0).sends) == 1


def test_forget_ends_all_timers_of_one_actor(probe, loop, owner):
    other = peer("other")
    for number in range(100):
        set_timer(probe, owner, number, (number + 1) * SECOND)
    set_timer(probe, other, "kept", 5 * SECOND)
    probe.call("forget", owner)
    probe.call("forget", owner)
    assert [sent.to for _, sent in pass_time(probe, loop, DAY)] == [other]


def test_many_due_at_once_are_fired_in_slices(probe, loop, owner):
    many = 3 * FIRE_LIMIT + 7
    changes = tuple(TimerChange(number, SECOND, owner.due, (number,)) for number in range(many))
    probe.call("apply", owner, changes)
    probe.clock.advance(SECOND)
    loop.armed.pop().callback()
    sizes, fired = [], []
    while True:
        sends = probe.call("wake").sends
        sizes.append(len(sends))
        fired.extend(sent.args[0] for sent in sends if sent.to is owner)
        if sends[-1] != Sent(probe.handle, "wake", ()):
            break
    assert max(sizes) <= FIRE_LIMIT + 1
    assert fired == list(range(many))


def test_far_timers_share_few_buckets_and_move_a_few_times(probe, loop, owner):
    """100,000 timers over a year stand in few buckets; none is touched when it is cancelled from one."""
    chance = random.Random(1)
    changes = tuple(
        TimerChange(number, chance.randrange(DAY, 365 * DAY), owner.due, ()) for number in range(100_000)
    )
    probe.call("apply", owner, changes)
    assert len(probe.actor._buckets) < 300
    probe.call("apply", owner, tuple(TimerChange(number, None, None, ()) for number in range(100_000)))
    assert probe.actor._buckets == {}
    assert probe.actor._owners == {}


def test_what_an_actor_that_has_stopped_sets_is_ignored(loop):
    runtime = Runtime(loop=asyncio.new_event_loop())
    handle = runtime.spawn(Sleeper, [])
    runtime.stop(handle)
    probe = Probe(Timekeeper, loop, clock=loop.clock)
    probe.call("apply", handle, (TimerChange("a", SECOND, handle.woke, ()),))
    assert loop.armed == []
    runtime.loop.close()


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 5),  # key
        st.one_of(st.none(), st.integers(0, 50_000), st.integers(0, 100 * SECOND), st.integers(0, 400 * DAY)),
        st.one_of(
            st.just(0), st.integers(0, 30_000), st.integers(0, 10 * SECOND), st.integers(0, 30 * DAY)
        ),  # then wait
    ),
    max_size=30,
)


@given(CHANGES)
@settings(max_examples=150, deadline=None)
def test_each_timer_fires_exactly_once_never_early_at_most_a_tick_late(changes):
    """Whatever is set, replaced and cancelled: the last set timer of each key fires once, in [deadline, deadline + tick]."""
    loop = FakeLoop()
    probe = Probe(Timekeeper, loop, clock=loop.clock)
    owner = peer("owner")
    due, expected, heard = {}, [], []
    for serial, (key, delay_us, wait_us) in enumerate(changes):
        now = probe.clock.monotonic()
        due.pop(key, None)
        if delay_us is None:
            cancel_timer(probe, owner, key)
        else:
            said = set_timer(probe, owner, key, delay_us, serial)
            due[key] = (serial, now + delay_us)
            if Sent(probe.handle, "wake", ()) in said.sends:
                sends = probe.call("wake").sends
                heard.extend((now, sent) for sent in sends if sent.to is owner)
        before = len(heard)
        heard.extend(pass_time(probe, loop, now + wait_us))
        fired = {sent.args[0] for _, sent in heard[before:]} | {
            sent.args[0] for at, sent in heard if at == now
        }
        for fired_key, (fired_serial, deadline) in list(due.items()):
            if fired_serial in fired:
                expected.append((fired_serial, deadline))
                del due[fired_key]
    heard.extend(pass_time(probe, loop, probe.clock.monotonic() + 500 * DAY))
    expected.extend(due.values())
    times = {sent.args[0]: at for at, sent in heard}
    assert len(times) == len(heard), "a timer fired twice"
    assert set(times) == {serial for serial, _ in expected}
    for serial, deadline in expected:
        assert deadline <= times[serial] <= deadline + TICK_US
    assert loop.armed == []
    assert probe.call("count").result == 0
    assert probe.actor._line == []


class Sleeper(Actor):
    def __init__(self, log):
        self.log = log

    def sleep(self, key, delay_us):
        self.set_timer(key, delay_us, self.me.woke, key, self.clock.monotonic() + delay_us)

    def sleep_and_raise(self, delay_us):
        self.set_timer("never", delay_us, self.me.woke, "never", 0)
        raise ValueError("no")

    def wake_up(self, key):
        self.cancel_timer(key)

    def woke(self, key, deadline):
        self.log.append((key, self.clock.monotonic() - deadline))


def in_virtual_time(play):
    async def main(world):
        runtime = Runtime(world.clock, world.rng, on_crash=lambda crash: None)
        keeper = runtime.spawn(Timekeeper)
        runtime.connect(timekeeper=keeper)
        result = await play(runtime, keeper)
        await runtime.stop_all()
        return result

    return run_virtual(main)


def test_actors_set_replace_and_cancel_timers():
    async def play(runtime, keeper):
        log = []
        sleeper = runtime.spawn(Sleeper, log, lane="t")
        for key, delay in (("a", SECOND), ("b", 3_600 * SECOND), ("c", 2 * SECOND), ("a", 40 * DAY)):
            sleeper.sleep.send(key, delay)
        sleeper.wake_up.send("c")
        await asyncio.sleep(41 * 86_400)
        assert await keeper.count.remote() == 0
        return log

    log = in_virtual_time(play)
    assert [key for key, _ in log] == ["b", "a"]
    assert all(0 <= late <= TICK_US for _, late in log)


def test_a_handler_that_raises_sets_no_timer_and_a_crash_ends_those_set():
    async def play(runtime, keeper):
        log = []
        sleeper = runtime.spawn(Sleeper, log, lane="t")
        sleeper.sleep.send("a", SECOND)
        sleeper.sleep_and_raise.send(SECOND)
        await asyncio.sleep(0.5)
        assert not sleeper.is_alive
        assert await keeper.count.remote() == 0
        await asyncio.sleep(10)
        return log

    assert in_virtual_time(play) == []


def test_a_stopped_actor_leaves_no_timer_behind():
    async def play(runtime, keeper):
        sleeper = runtime.spawn(Sleeper, [], lane="t")
        sleeper.sleep.send("a", DAY)
        sleeper.sleep.send("b", DAY)
        await asyncio.sleep(1)
        assert await keeper.count.remote() == 2
        runtime.stop_lane("t")
        return await keeper.count.remote()

    assert in_virtual_time(play) == 0


def test_stopping_the_timekeeper_disarms_the_loop():
    async def play(runtime, keeper):
        sleeper = runtime.spawn(Sleeper, [], lane="t")
        sleeper.sleep.send("a", DAY)
        await asyncio.sleep(1)
        alarm = next(iter(runtime.live_actors()))._alarm
        assert not alarm.cancelled()
        runtime.stop(keeper)
        return alarm.cancelled()

    assert in_virtual_time(play)


async def test_on_a_real_loop_a_timer_is_not_early():
    runtime = Runtime()
    runtime.connect(timekeeper=runtime.spawn(Timekeeper))
    log = []
    sleeper = runtime.spawn(Sleeper, log)
    for number in range(20):
        sleeper.sleep.send(number, 3_000 * number)
    async with asyncio.timeout(30):
        while len(log) < 20:  # noqa: ASYNC110 - the log is a plain list, and time is what is waited for
            await asyncio.sleep(0.005)
    assert all(late >= 0 for _, late in log)
    await runtime.stop_all()


def test_levels_reach_beyond_any_timer():
    assert module.WIDTHS[-1] > 100 * DAY
