"""Properties of delivery, on random programs in virtual time."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from broadaxe_actors.runtime import Actor, Runtime
from broadaxe_actors.runtime.virtual import run_virtual

PLAN = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "actors": st.integers(2, 8),
        "lanes": st.integers(1, 4),
        "starts": st.integers(1, 20),
        "depth": st.integers(0, 4),
        "crash_rate": st.sampled_from([0.0, 0.0, 0.02, 0.2]),
    }
)


class Gossip(Actor):
    """On each message sends a few numbered ones to random others, and sometimes raises after having sent them."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.next_to = {}

    def hear(self, sender, serial, depth):
        world = self.world
        world.heard.append((sender, self.number, serial))
        chance = world.random
        said = []
        if depth:
            for _ in range(chance.randrange(4)):
                to = chance.randrange(len(world.handles))
                number = self.next_to.get(to, 0)
                self.next_to[to] = number + 1
                world.handles[to].hear.send(self.number, number, depth - 1)
                said.append((self.number, to, number))
        if chance.random() < world.crash_rate:
            world.unsaid.extend(said)
            raise ValueError("after having spoken")
        world.said.extend(said)


class Book:
    def __init__(self, plan):
        self.random = random.Random(plan["seed"])
        self.crash_rate = plan["crash_rate"]
        self.handles, self.heard, self.said, self.unsaid = [], [], [], []


def play(plan):
    async def main(world):
        book = Book(plan)
        runtime = Runtime(world.clock, world.rng, on_crash=lambda crash: None)
        for number in range(plan["actors"]):
            lane = f"lane-{book.random.randrange(plan['lanes'])}"
            book.handles.append(runtime.spawn(Gossip, book, number, lane=lane))
        for serial in range(plan["starts"]):
            book.handles[serial % plan["actors"]].hear.send(-1, serial, plan["depth"])
        for _ in range(500):
            await asyncio.sleep(0)
        book.alive = [handle.is_alive for handle in book.handles]
        await runtime.stop_all()
        return book

    return run_virtual(main, seed=plan["seed"])


@given(PLAN)
@settings(max_examples=60, deadline=None)
def test_messages_of_a_pair_arrive_once_and_in_the_order_sent(plan):
    """For every sender and receiver: what was heard is a prefix of what was said, and all of it if the receiver lives."""
    book = play(plan)
    pairs = {(sender, to) for sender, to, _ in book.said}
    for pair in pairs:
        said = [serial for sender, to, serial in book.said if (sender, to) == pair]
        heard = [serial for sender, to, serial in book.heard if (sender, to) == pair]
        assert heard == said[: len(heard)]
        if book.alive[pair[1]]:
            assert heard == said


@given(PLAN)
@settings(max_examples=60, deadline=None)
def test_nothing_that_a_raising_handler_said_is_ever_heard(plan):
    book = play(plan)
    assert not set(book.heard) & set(book.unsaid)


@given(PLAN)
@settings(max_examples=15, deadline=None)
def test_the_same_seed_plays_the_same_way(plan):
    assert play(plan).heard == play(plan).heard
