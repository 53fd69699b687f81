"""How messages travel: order, the outbox, replies, handles."""

import asyncio
import pickle

import pytest

from broadaxe_actors.runtime import Actor, ActorStopped, Crash, Handle, Runtime


class Notebook(Actor):
    """Writes down what it gets."""

    def __init__(self, pages=None):
        self.pages = [] if pages is None else pages

    def write(self, *words):
        self.pages.append(words)

    def read(self):
        return list(self.pages)


class Teller(Actor):
    def __init__(self, notebook):
        self.notebook = notebook

    def tell_then_look(self):
        self.notebook.write.send("first")
        self.notebook.write.send("second")
        return self.notebook.is_idle

    def ask(self):
        self.notebook.read.remote()

    def spawn_and_tell(self):
        child = self.actor_inbox.runtime.spawn(Notebook, lane=self.lane)
        child.write.send("to the child")
        return child


class Journal(Actor):
    def __init__(self):
        self.appended = []

    def append(self, lane, records, effects):
        self.appended.append((lane, records, len(effects)))
        for method, args in effects:
            method.send(*args)

    def read(self):
        return list(self.appended)


class Recorder(Actor):
    def __init__(self, notebook):
        self.notebook = notebook

    def work(self):
        self.send_after_commit(self.notebook.write, "committed")
        self.record("a")
        self.notebook.write.send("at once")
        self.record("b")

    def fetch_twice(self, first, second):
        self.fetch(first, "x", then=self.me.fetched, context=1)
        self.fetch(second, then=self.me.fetched, context=2)

    def fetched(self, context, result, error):
        self.notebook.write.send(context, result, repr(error))


@pytest.fixture
async def crashes():
    return []


@pytest.fixture
async def runtime(crashes):
    runtime = Runtime(on_crash=crashes.append)
    yield runtime
    await runtime.stop_all()


async def test_one_way_sends_arrive_in_order(runtime):
    notebook = runtime.spawn(Notebook)
    for number in range(1_000):
        notebook.write.send(number)
    assert await notebook.read.remote() == [(number,) for number in range(1_000)]


async def test_sends_of_a_handler_leave_when_it_returns(runtime):
    notebook = runtime.spawn(Notebook)
    teller = runtime.spawn(Teller, notebook)
    assert await teller.tell_then_look.remote() is True
    assert await notebook.read.remote() == [("first",), ("second",)]


async def test_remote_inside_a_handler_is_refused(runtime, crashes):
    teller = runtime.spawn(Teller, runtime.spawn(Notebook))
    with pytest.raises(RuntimeError, match="inside a handler"):
        await teller.ask.remote()
    assert [crash.method for crash in crashes] == ["ask"]


async def test_an_unknown_handler_names_the_nearest(runtime):
    notebook = runtime.spawn(Notebook)
    with pytest.raises(AttributeError, match="Notebook has no handler 'wirte'; did you mean 'write'"):
        notebook.wirte.send()
    with pytest.raises(AttributeError):
        notebook.pages.send()
    with pytest.raises(AttributeError):
        notebook.record.send()


async def test_a_method_is_made_once_and_kept(runtime):
    notebook = runtime.spawn(Notebook)
    assert notebook.write is notebook.write
    assert notebook.write.name == "write"
    assert notebook.write.handle is notebook


async def test_handles_and_methods_never_pickle(runtime):
    notebook = runtime.spawn(Notebook)
    for thing in (notebook, notebook.write):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing)


async def test_a_spawned_child_gets_what_its_parent_sends(runtime):
    teller = runtime.spawn(Teller, runtime.spawn(Notebook), lane="t")
    child = await teller.spawn_and_tell.remote()
    assert isinstance(child, Handle)
    assert await child.read.remote() == [("to the child",)]
    assert runtime.count("t") == 2


async def test_records_and_effects_go_to_the_journal_in_one_message_after_the_sends(runtime):
    journal = runtime.spawn(Journal)
    runtime.connect(journal=journal)
    notebook = runtime.spawn(Notebook, lane="t")
    recorder = runtime.spawn(Recorder, notebook, lane="t")
    await recorder.work.remote()
    assert await journal.read.remote() == [("t", ("a", "b"), 1)]
    assert await notebook.read.remote() == [("at once",), ("committed",)]


async def test_record_without_a_journal_is_an_error_of_the_handler(runtime, crashes):
    recorder = runtime.spawn(Recorder, runtime.spawn(Notebook))
    with pytest.raises(RuntimeError, match="needs a journal"):
        await recorder.work.remote()
    assert len(crashes) == 1


async def test_outbox_methods_refuse_outside_a_handler(runtime):
    runtime.connect(journal=runtime.spawn(Journal))
    actor = next(runtime.live_actors())
    with pytest.raises(RuntimeError, match="inside a handler only"):
        actor.record("a")


async def test_fetch_sends_result_or_error(runtime):
    async def answer(word):
        await asyncio.sleep(0)
        return word * 2

    async def fail():
        raise OSError("away")

    notebook = runtime.spawn(Notebook)
    recorder = runtime.spawn(Recorder, notebook)
    await recorder.fetch_twice.remote(answer, fail)
    async with asyncio.timeout(5):
        while len(said := await notebook.read.remote()) < 2:
            pass
    assert sorted(said) == [(1, "xx", "None"), (2, None, "OSError('away')")]


async def test_fetch_ends_with_its_actor(runtime):
    started, ended = asyncio.Event(), []

    async def hang(_word="x"):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    notebook = runtime.spawn(Notebook)
    recorder = runtime.spawn(Recorder, notebook)
    await recorder.fetch_twice.remote(hang, hang)
    await started.wait()
    await runtime.stop_all()
    assert ended == [True, True]


async def test_stop_drops_the_inbox_and_tells_callers(runtime):
    notebook = runtime.spawn(Notebook)
    reply = notebook.read.remote()
    runtime.stop(notebook)
    runtime.stop(notebook)
    with pytest.raises(ActorStopped, match="stopped before"):
        await reply
    with pytest.raises(ActorStopped, match="asked after"):
        await notebook.read.remote()
    notebook.write.send("nobody hears")
    assert not notebook.is_alive
    assert runtime.count() == 0


async def test_stop_lane_leaves_other_lanes_alone_and_the_name_free(runtime):
    ours = [runtime.spawn(Notebook, lane="a") for _ in range(3)]
    other = runtime.spawn(Notebook, lane="b")
    reply = ours[0].read.remote()
    other.write.send("still here")
    runtime.stop_lane("a")
    runtime.stop_lane("never was")
    with pytest.raises(ActorStopped):
        await reply
    again = runtime.spawn(Notebook, lane="a")
    again.write.send("new")
    assert await again.read.remote() == [("new",)]
    assert await other.read.remote() == [("still here",)]


async def test_nothing_can_be_spawned_after_stop_all(runtime):
    runtime.spawn(Notebook)
    await runtime.stop_all()
    await runtime.stop_all()
    assert runtime.count() == 0
    with pytest.raises(RuntimeError, match="has been stopped"):
        runtime.spawn(Notebook)


async def test_a_cancelled_caller_does_not_disturb_the_actor(runtime, crashes):
    notebook = runtime.spawn(Notebook)
    reply = notebook.read.remote()
    reply.cancel()
    assert await notebook.read.remote() == []
    assert crashes == []


async def test_hooks_run_at_start_and_stop(runtime):
    pages = []
    notebook = runtime.spawn(Notebook, pages)

    class Hooked(Actor):
        def __init__(self, notebook):
            self.notebook = notebook
            notebook.write.send("constructed")

        def on_start(self):
            self.notebook.write.send("started")

        def on_stop(self):
            self.notebook.write.send("stopped")

        def work(self):
            self.notebook.write.send("worked")

    hooked = runtime.spawn(Hooked, notebook)
    await hooked.work.remote()
    runtime.stop(hooked)
    assert await notebook.read.remote() == [("constructed",), ("started",), ("worked",), ("stopped",)]


def test_actors_cannot_be_created_without_a_runtime():
    with pytest.raises(TypeError, match=r"use Runtime\.spawn"):
        Notebook()
    with pytest.raises(TypeError, match=r"use Runtime\.spawn"):
        Notebook.start()


def test_coroutine_handlers_are_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="is not a plain function"):

        class Waiting(Actor):
            async def work(self): ...


@pytest.mark.parametrize("name", ["record", "fetch", "stop", "is_alive", "lane"])
def test_handlers_may_not_hide_names_of_the_runtime(name):
    with pytest.raises(TypeError, match="hides a name"):
        type("Hiding", (Actor,), {name: lambda self: None})


async def test_slow_handlers_are_counted():
    now = 0.0

    class Slow(Actor):
        def work(self):
            nonlocal now
            now += 0.006

    runtime = Runtime(stopwatch=lambda: now)
    await runtime.spawn(Slow).work.remote()
    assert list(runtime.slow_handlers.values()) == [1]
    await runtime.stop_all()


async def test_a_stop_inside_a_handler_follows_its_sends(runtime):
    class Parent(Actor):
        def __init__(self, child):
            self.child = child

        def dismiss(self):
            self.actor_inbox.runtime.stop(self.child)
            assert self.child.is_alive
            self.actor_inbox.runtime.stop(self.me)
            return "done"

    child = runtime.spawn(Notebook)
    parent = runtime.spawn(Parent, child)
    assert await parent.dismiss.remote() == "done"
    assert not child.is_alive
    assert not parent.is_alive


def test_crash_names_what_happened():
    assert Crash._fields == ("handle", "lane", "method", "args", "error")
