"""The neighbours of the tracker, each alone: spawn keys, events, the gateway's link, the supervisor, the registry."""

import pytest

from broadaxe_actors.claims import ClaimRequest, Claims, spawn_key
from broadaxe_actors.errors import Code
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.gateway_link import MAX_WAITING, GatewayLink, TenantActors
from broadaxe_actors.messages import (
    CloseSession,
    CloseSubscription,
    GetRun,
    Heartbeat,
    NewEvent,
    OpenSession,
    OpenSubscription,
    PushEvents,
    Refusal,
    RegisterWorker,
    Reply,
    ReportTasks,
    RunFinished,
    UnwatchRuns,
    WatchRuns,
)
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.supervisor import Supervisor, TenantRecord
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.worker_registry import WorkerRegistry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import MemoryStore
from tests.factories import TENANT, make_task_run, make_worker, new_id

# ---------------------------------------------------------------- claims


def claims_with_tracker():
    claims = Probe(Claims, TENANT, MemoryStore())
    claims.call("connect", tracker := peer("tracker"))
    return claims, tracker


def claim(key, run_id, *, history=False, parent="parent"):
    return ClaimRequest(parent, key, run_id, history)


def test_a_spawn_key_names_the_first_run_for_ever():
    claims, tracker = claims_with_tracker()
    first = claims.call("claim", 1, (claim("i:0", "a"), claim("i:1", "b"), claim("i:0", "c")))
    assert first.sends == [Sent(tracker, "claimed", (1, ("a", "b", "a")))]
    again = claims.call("claim", 2, (claim("i:1", "d"),))
    assert again.sends == [Sent(tracker, "claimed", (2, ("b",)))]


def test_a_key_replaces_the_index():
    assert spawn_key(3, "file.txt") == "k:file.txt"
    assert spawn_key(3, None) == "i:3"


def test_what_earlier_attempts_spawned_is_read_once():
    claims, tracker = claims_with_tracker()
    (fetch,) = claims.call("claim", 1, (claim("i:0", "new", history=True),)).fetches
    assert fetch.args == (TENANT, "parent")
    waiting = claims.call("claim", 2, (claim("i:1", "other", history=True),))
    assert not waiting.fetches
    said = claims.call("loaded", "parent", [(0, None, "old"), (None, None, "unkeyed")], None)
    assert said.sends == [
        Sent(tracker, "claimed", (1, ("old",))),
        Sent(tracker, "claimed", (2, ("other",))),
    ]


def test_a_history_that_cannot_be_read_fails_every_trigger_that_waits_and_is_read_again():
    claims, tracker = claims_with_tracker()
    claims.call("claim", 1, (claim("i:0", "a", history=True),))
    claims.call("claim", 2, (claim("i:0", "b", history=True),))
    said = claims.call("loaded", "parent", None, Unavailable("away"))
    assert [(sent.method, sent.args[0]) for sent in said.sends] == [("claim_failed", 1), ("claim_failed", 2)]
    assert claims.call("claim", 3, (claim("i:0", "c", history=True),)).fetches
    assert tracker.is_alive


def test_a_claim_of_a_run_that_was_not_created_is_given_back():
    claims, tracker = claims_with_tracker()
    claims.call("claim", 1, (claim("i:0", "a"),))
    claims.call("unclaim", (("parent", "i:0", "another"),))
    assert claims.call("claim", 2, (claim("i:0", "b"),)).sends[0].args == (2, ("a",))
    claims.call("unclaim", (("parent", "i:0", "a"), ("unknown", "i:0", "a")))
    assert claims.call("claim", 3, (claim("i:0", "c"),)).sends[0].args == (3, ("c",))
    assert tracker.is_alive


# ---------------------------------------------------------------- events


def push(*keys):
    return PushEvents(1, TENANT, tuple(NewEvent(key, b"{}") for key in keys))


def test_no_events_are_no_error():
    router = Probe(EventRouter, TENANT, MemoryStore())
    router.call("connect", peer("tracker"))
    (sent,) = router.call("push", peer("gateway"), push()).sends
    assert sent.args[2].events == ()


# ---------------------------------------------------------------- the gateway's link


class LinkBench:
    def __init__(self):
        self.emitted = []
        self.supervisor = peer("supervisor")
        self.probe = Probe(GatewayLink, "gateway", self.emitted.append, self.supervisor)
        self.actors = TenantActors(*(peer(name) for name in TenantActors._fields))

    def ready(self):
        return self.probe.call("tenant_ready", TENANT, self.actors)

    def submit(self, *messages):
        return self.probe.call("submit", list(messages))

    def answers(self):
        self.probe.call("flush")
        out = [message for batch in self.emitted for message in batch]
        self.emitted.clear()
        return out


def session(request_id=1, session_id="s1", worker_id="w"):
    return OpenSession(request_id, TENANT, worker_id, session_id, True)


def test_messages_wait_until_their_tenant_is_up_and_go_in_order():
    link = LinkBench()
    said = link.submit(GetRun(1, TENANT, "a"), Heartbeat(2, TENANT, "w"))
    assert said.sends == [Sent(link.supervisor, "activate", (TENANT, link.probe.handle))]
    assert [sent.method for sent in link.ready().sends] == ["get_run", "route"]
    assert [sent.method for sent in link.submit(GetRun(3, TENANT, "b")).sends] == ["get_run"]


def test_too_many_waiting_messages_are_refused():
    link = LinkBench()
    link.submit(*(GetRun(number, TENANT, "a") for number in range(1, MAX_WAITING + 2)))
    (refusal,) = link.answers()
    assert (refusal.request_id, refusal.code) == (MAX_WAITING + 1, Code.RESOURCE_EXHAUSTED)


def test_an_answer_leaves_once():
    link = LinkBench()
    link.ready()
    link.submit(GetRun(1, TENANT, "a"))
    link.probe.call("deliver", (Reply(1, "x"),))
    link.probe.call("deliver", (Reply(1, "y"), Refusal(1, Code.INTERNAL, "")))
    assert link.answers() == [Reply(1, "x")]


def test_a_batch_that_comes_twice_is_acted_on_once():
    link = LinkBench()
    link.ready()
    link.submit(session(1))
    link.probe.call("tenant_down", TENANT)
    link.submit(session(1))
    assert link.ready().is_silent, "the gateway was told that its session is not open"


def test_a_tenant_that_goes_down_refuses_what_waits_but_holds_reports():
    link = LinkBench()
    link.ready()
    report = ReportTasks(2, TENANT, "w", ())
    link.submit(GetRun(1, TENANT, "a"), report)
    said = link.probe.call("tenant_down", TENANT)
    assert Sent(link.supervisor, "activate", (TENANT, link.probe.handle)) in said.sends
    (refusal,) = link.answers()
    assert (refusal.request_id, refusal.code) == (1, Code.UNAVAILABLE)
    assert Sent(link.actors.tracker, "report", (link.probe.handle, report)) in link.ready().sends


def test_what_is_open_is_opened_again_for_a_new_generation():
    link = LinkBench()
    link.ready()
    link.submit(
        session(1, "s1"),
        session(2, "s2"),
        CloseSession(TENANT, "w", "s2"),
        WatchRuns(TENANT, ("run-1", "run-2", "run-3")),
        UnwatchRuns(TENANT, ("run-2",)),
        OpenSubscription(4, TENANT, "sub", "run-1"),
    )
    link.probe.call("deliver", (Reply(1, None), Reply(4, True), RunFinished(TENANT, "run-3", 6, ())))
    link.probe.call("tenant_down", TENANT)
    sends = link.ready().sends
    opened = [sent.args[1] for sent in sends if sent.method == "route"]
    assert opened == [session(0, "s1")._replace(in_flight=None)]
    assert (
        Sent(
            link.actors.tracker,
            "open_subscription",
            (link.probe.handle, OpenSubscription(0, TENANT, "sub", "run-1")),
        )
        in sends
    )
    assert Sent(link.actors.tracker, "watch", (link.probe.handle, WatchRuns(TENANT, ("run-1",)))) in sends


def test_a_refused_session_is_not_opened_again():
    link = LinkBench()
    link.ready()
    link.submit(session(1))
    link.probe.call("deliver", (Refusal(1, Code.NOT_FOUND, "no"),))
    link.probe.call("tenant_down", TENANT)
    assert link.ready().is_silent


def test_a_gateway_that_leaves_closes_what_it_had_open():
    link = LinkBench()
    link.ready()
    link.submit(session(1), WatchRuns(TENANT, ("run",)), OpenSubscription(2, TENANT, "sub", "run"))
    sends = link.probe.call("leave").sends
    told = [sent.args[-1] for sent in sends if sent.args]
    assert CloseSession(TENANT, "w", "s1") in told
    assert UnwatchRuns(TENANT, ("run",)) in told
    assert CloseSubscription(TENANT, "sub") in told
    assert sends[-1] == Sent(link.supervisor, "gateway_left", (link.probe.handle,))


# ---------------------------------------------------------------- the supervisor


class SupervisorBench:
    def __init__(self):
        self.journal = peer("journal")
        self.gateway = peer("gateway")
        self.up = []
        probe = Probe(
            Supervisor,
            None,
            MemoryStore(),
            ShardSettings(),
            Telemetry(),
            self.journal,
            lambda tenant_id, actors: self.up.append((tenant_id, actors)),
        )
        probe.actor._runtime = probe.runtime
        self.probe = probe
        probe.call("gateway_joined", self.gateway)

    def bring_up(self, **record):
        self.probe.call("bring_up", TENANT, TenantRecord(**record))
        return self.probe.call("workers_restored", TENANT)


def test_a_tenant_is_loaded_once_for_all_who_ask():
    bench = SupervisorBench()
    assert len(bench.probe.call("activate", TENANT, bench.gateway).fetches) == 1
    other = peer("other")
    assert bench.probe.call("activate", TENANT, other).is_silent
    said = bench.probe.call("loaded", TENANT, TenantRecord(), None)
    assert [handle.actor_class.__name__ for handle in said.spawned] == [
        "RunTracker",
        "TenantQueue",
        "Claims",
        "EventRouter",
        "Timetable",
        "WorkerRegistry",
    ]
    said = bench.probe.call("workers_restored", TENANT)
    assert [sent.to for sent in said.sends if sent.method == "tenant_ready"] == [bench.gateway, other]


def test_a_record_that_cannot_be_read_is_read_again():
    bench = SupervisorBench()
    bench.probe.call("activate", TENANT, bench.gateway)
    (timer,) = bench.probe.call("loaded", TENANT, None, Unavailable("away")).timers
    assert len(bench.probe.fire(timer).fetches) == 1


def test_task_runs_are_restored_by_their_place_in_line_after_what_waits_in_postgres_is_known():
    bench = SupervisorBench()
    rows = tuple(make_task_run(seq=seq) for seq in (5, 1, 900, 3))
    sends = bench.bring_up(task_runs=rows).sends
    methods = [sent.method for sent in sends]
    assert methods.index("restore_spilled") < methods.index("restore_task_runs") < methods.index("restored")
    restored = [row.seq for sent in sends if sent.method == "restore_task_runs" for row in sent.args[0]]
    assert restored == [1, 3, 5, 900]


def test_a_crash_takes_the_tenant_down_and_reads_it_again_once_the_journal_is_drained():
    bench = SupervisorBench()
    bench.bring_up()
    said = bench.probe.call("crashed", TENANT, "boom")
    assert Sent(bench.gateway, "tenant_down", (TENANT,)) in said.sends
    assert [sent.method for sent in said.sends if sent.to is bench.journal] == ["drop_effects", "drain"]
    assert len(said.stopped) == 6
    assert len(bench.probe.call("drained", TENANT).fetches) == 1


def test_a_second_crash_of_one_generation_does_not_drop_the_news_of_the_drain():
    bench = SupervisorBench()
    bench.bring_up()
    bench.probe.call("crashed", TENANT, "boom")
    said = bench.probe.call("crashed", TENANT, "boom too")
    assert [sent for sent in said.sends if sent.to is bench.journal] == []


@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_a_task_run_is_quarantined_after_its_third_crash(crashes):
    bench = SupervisorBench()
    for _ in range(crashes):
        bench.bring_up()
        bench.probe.call("crashed_at", TENANT, "poison")
        bench.probe.call("crashed", TENANT, "the traceback")
        bench.probe.call("drained", TENANT)
    sends = bench.bring_up().sends
    quarantined = [sent.args for sent in sends if sent.method == "quarantine"]
    assert quarantined == ([("poison", "the traceback")] if crashes == 3 else [])


# ---------------------------------------------------------------- the registry


def registry():
    queue, tracker = peer("queue"), peer("tracker")
    probe = Probe(WorkerRegistry, TENANT, None, ShardSettings(), queue, tracker, lane=TENANT)
    probe.actor._runtime = probe.runtime
    return probe, queue, tracker


LABELS = (("memory", 8), ("zone", "8"))


def test_every_registration_is_a_new_worker_answered_after_its_commit():
    probe, queue, tracker = registry()
    gateway = peer("gateway")
    ids = set()
    for number in (1, 2):
        said = probe.call(
            "register",
            gateway,
            RegisterWorker(number, TENANT, "same", ("W:T",), (("default", 3),), LABELS, "{}", True),
        )
        (row,) = said.records
        assert row.actions == ("w:t",)
        assert said.effects == [Sent(gateway, "deliver", ((Reply(number, row.id),),))]
        assert (
            Sent(queue, "put_worker", (row.id, frozenset({"w:t"}), (("default", 3),), LABELS)) in said.sends
        )
        assert any(sent.to is tracker and sent.method == "worker_joined" for sent in said.sends)
        ids.add(row.id)
    assert len(ids) == 2


def test_an_unknown_worker_is_not_found():
    probe, _, _ = registry()
    gateway = peer("gateway")
    (sent,) = probe.call("route", gateway, Heartbeat(4, TENANT, new_id())).sends
    assert sent.args[0][0].code == Code.NOT_FOUND
    assert probe.call("route", gateway, Heartbeat(0, TENANT, new_id())).is_silent


def test_a_worker_that_left_lives_until_the_tracker_has_let_go():
    probe, _, tracker = registry()
    row = make_worker()
    probe.call("restore", (row,), peer("supervisor"))
    assert probe.call("forget_worker", row.id).sends == [Sent(tracker, "worker_left", (row.id,))]
    assert len(probe.call("dismissed", row.id).stopped) == 1
    assert probe.call("dismissed", row.id).is_silent
