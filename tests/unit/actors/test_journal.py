"""When the journal commits, and what leaves then."""

import pytest

from broadaxe_actors.batch_builder import MAX_FLUSH_BYTES
from broadaxe_actors.journal import MAX_ROWS_SHARED, RIDER_ROWS, Journal
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_storage.errors import CommitUnknown, Fenced, RefusedRecords, Unavailable
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import (
    EventKeyRow,
    FilterClear,
    FilterDrop,
    IdempotencyRelease,
    RateLimitDrop,
    RunRevival,
    TaskRunState,
)
from broadaxe_storage.store import shard_of
from tests.factories import (
    TENANT,
    WORKFLOW,
    make_claim,
    make_filter,
    make_finish,
    make_log,
    make_member,
    make_rate_limit,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
    make_update,
    new_id,
)

EPOCH = 3


class Bench:
    def __init__(self):
        self.store = MemoryStore()
        self.fenced = []
        self.probe = Probe(Journal, self.store, EPOCH, lambda: self.fenced.append(True))
        self.there = peer("there")

    def effect(self, name):
        return (self.there.deliver, (name,))

    def append(self, *records, lane="t", effects=()):
        return self.probe.call("append", lane, records, tuple(self.effect(name) for name in effects))

    def flush(self):
        """Start a flush; its batch, or None."""
        said = self.probe.call("flush")
        return said.fetches[0].args[3] if said.fetches else None

    def end(self, error=None):
        """The flush in flight has this outcome; what left."""
        return self.probe.call("flushed", self.probe.actor._flush_number, None, error)

    def left(self, said):
        return [sent.args[0] for sent in said.sends if sent.method == "deliver"]


@pytest.fixture
def bench():
    return Bench()


def test_a_flush_is_guarded_by_epoch_number_and_shards(bench):
    bench.append(make_task_run(), lane="t")
    (fetch,) = bench.probe.call("flush").fetches
    assert fetch.function == bench.store.commit
    assert fetch.args[:3] == (EPOCH, 1, [shard_of("t")])


def test_effects_leave_after_the_commit_in_order(bench):
    assert bench.left(bench.append(make_task_run(), effects=("one", "two"))) == []
    bench.append(make_task_run(), effects=("three",))
    bench.flush()
    assert bench.left(bench.end()) == ["one", "two", "three"]


def test_while_one_flush_is_in_flight_the_next_one_fills(bench):
    first, second, third = make_task_run(), make_task_run(), make_task_run()
    bench.append(first)
    assert bench.flush().created == (first,)
    bench.append(second)
    bench.append(third)
    assert bench.flush() is None
    bench.end()
    assert bench.flush().created == (second, third)


def test_effects_without_records_leave_at_once_only_if_nothing_is_before_them(bench):
    assert bench.left(bench.append(effects=("now",))) == ["now"]
    bench.append(make_task_run(), effects=("first",))
    assert bench.left(bench.append(effects=("second",))) == []
    assert bench.left(bench.append(effects=("other",), lane="u")) == ["other"]
    bench.flush()
    assert bench.left(bench.append(effects=("third",))) == []
    assert bench.left(bench.end()) == ["first", "second"]


def test_records_of_one_task_run_become_one_guarded_by_the_first(bench):
    row = make_task_run()
    bench.append(make_update(row, attempt=1))
    bench.append(make_finish(row, expected_attempt=1, attempt=1))
    batch = bench.flush()
    assert batch.updated == ()
    assert [(item.expected_attempt, item.attempt) for item in batch.finished] == [(0, 1)]


def test_a_task_run_is_never_created_and_changed_in_one_flush(bench):
    row = make_task_run()
    bench.append(row)
    bench.append(make_update(row))
    assert bench.flush().updated == ()
    bench.end()
    assert len(bench.flush().updated) == 1


def test_of_several_records_of_one_rate_limit_the_last_is_written(bench):
    spent, later = make_rate_limit("a"), make_rate_limit("a", units_left=1)
    gone, back = make_rate_limit("b"), make_rate_limit("c")
    bench.append(spent, gone, RateLimitDrop(TENANT, "c"))
    bench.append(later, RateLimitDrop(TENANT, "b"), back)
    batch = bench.flush()
    assert batch.rate_limits == (later, back)
    assert batch.dropped_rate_limits == (RateLimitDrop(TENANT, "b"),)


def test_of_several_records_of_one_filter_the_last_is_written(bench):
    first, later = make_filter(), make_filter()
    bench.append(first, later, FilterDrop(TENANT, "known"))
    bench.append(changed := first._replace(scope="t"), FilterDrop(TENANT, later.id))
    batch = bench.flush()
    assert batch.filters == (changed,)
    assert set(batch.dropped_filters) == {FilterDrop(TENANT, "known"), FilterDrop(TENANT, later.id)}


def test_declared_filters_of_two_versions_in_one_flush_are_those_of_the_second(bench):
    clear = FilterClear(TENANT, WORKFLOW)
    own, old, new = make_filter(), make_filter(is_declarative=True), make_filter(is_declarative=True)
    other = make_filter(is_declarative=True, workflow_id=new_id())
    bench.append(clear, old, own, other)
    bench.append(clear, new)
    batch = bench.flush()
    assert (batch.cleared_filters, batch.filters) == ((clear,), (own, other, new))


def test_a_key_of_events_is_written_once(bench):
    bench.append(EventKeyRow(TENANT, "a"), EventKeyRow(TENANT, "b"))
    bench.append(EventKeyRow(TENANT, "a"))
    assert bench.flush().event_keys == (EventKeyRow(TENANT, "a"), EventKeyRow(TENANT, "b"))


def test_a_settlement_takes_the_place_of_an_earlier_update(bench):
    run = make_run()
    row = make_member(run)
    bench.append(make_update(row, attempt=1))
    bench.append(make_settle(row, expected_attempt=1, attempt=1))
    batch = bench.flush()
    assert batch.updated == ()
    assert [(item.expected_attempt, item.attempt) for item in batch.settled] == [(0, 1)]


def test_a_task_run_may_be_created_and_settled_by_one_append(bench):
    run = make_run()
    row = make_member(run)
    settle = make_settle(row, state=TaskRunState.SKIPPED, error=None)
    bench.append(run, row, settle)
    batch = bench.flush()
    assert (batch.created, batch.settled) == ((run, row), (settle,))


def test_a_run_ends_in_the_flush_of_what_ends_it(bench):
    run = make_run()
    first, last = make_member(run), make_member(run)
    end = make_run_finish(run, 2)
    bench.append(make_update(first, attempt=1))
    bench.append(make_settle(first, expected_attempt=1, attempt=1))
    bench.append(make_settle(last), end)
    batch = bench.flush()
    assert len(batch.settled) == 2
    assert batch.ended == (end,)


RUN = make_run()
MEMBER = make_member(RUN)
SINGLE = make_task_run()


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ([MEMBER], [make_settle(MEMBER)]),
        ([make_settle(MEMBER)], [make_update(MEMBER, expected_attempt=0, attempt=1)]),
        ([make_settle(MEMBER)], [make_settle(MEMBER)]),
        ([make_run_finish(RUN, 1)], [RunRevival(RUN.id, TENANT, 2), RUN, MEMBER]),
        ([make_run_finish(RUN, 1)], [MEMBER]),
        ([make_run_finish(RUN, 1)], [RUN]),
        ([make_run_finish(RUN, 1)], [make_run_finish(RUN, 1)]),
        ([make_finish(SINGLE)], [RunRevival(SINGLE.id, TENANT, 1), SINGLE]),
        ([RunRevival(RUN.id, TENANT, 2)], [RunRevival(RUN.id, TENANT, 2)]),
    ],
    ids=[
        "settled after created",
        "replayed after settled",
        "settled twice",
        "revived after ended",
        "task created after ended",
        "run created after ended",
        "ended twice",
        "revived after finished",
        "revived twice",
    ],
)
def test_what_the_order_within_a_flush_would_turn_round_waits_for_the_next(bench, earlier, later):
    bench.append(*earlier)
    bench.append(*later)
    bench.append(make_task_run(), lane="other")
    first = bench.flush()
    assert sum(map(len, first)) == len(earlier) + 1
    bench.end()
    assert sum(map(len, bench.flush())) == len(later)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ([make_settle(MEMBER)], [make_run_finish(RUN, 1)]),
        ([make_update(MEMBER)], [make_run_finish(RUN, 1)]),
        ([RUN, MEMBER, make_settle(MEMBER)], [make_run_finish(RUN, 1)]),
        ([RunRevival(RUN.id, TENANT, 2), RUN, MEMBER, make_settle(MEMBER)], [make_run_finish(RUN, 1)]),
        ([make_run_finish(RUN, 1)], [RunRevival(SINGLE.id, TENANT, 1), SINGLE]),
    ],
    ids=["settled", "updated", "created and settled", "revived", "another is revived"],
)
def test_what_the_order_within_a_flush_keeps_shares_it(bench, earlier, later):
    bench.append(*earlier)
    bench.append(*later)
    assert sum(map(len, bench.flush())) == len(earlier) + len(later)


def test_of_claims_of_one_key_in_a_flush_the_last_counts(bench):
    first, second, other = make_claim(), make_claim(), make_claim("other")
    release = IdempotencyRelease(TENANT, "k", first.run_id)
    bench.append(first, other)
    bench.append(release, second)
    batch = bench.flush()
    assert sorted(batch.claimed_keys) == sorted([second, other])
    assert batch.released_keys == (release,)


def test_a_key_claimed_again_by_its_run_is_not_released(bench):
    claim = make_claim()
    release = IdempotencyRelease(TENANT, "k", claim.run_id)
    bench.append(release)
    bench.append(claim)
    batch = bench.flush()
    assert (batch.claimed_keys, batch.released_keys) == ((claim,), ())
    bench.end()
    bench.append(claim)
    bench.append(release)
    batch = bench.flush()
    assert (batch.claimed_keys, batch.released_keys) == ((claim,), (release,))


@pytest.mark.parametrize(
    "record",
    [
        make_settle(MEMBER, output=b"x" * (MAX_FLUSH_BYTES // 3)),
        make_settle(MEMBER, state=TaskRunState.FAILED, error=b"x" * (MAX_FLUSH_BYTES // 3)),
        make_update(MEMBER, waits="x" * (MAX_FLUSH_BYTES // 3)),
        make_member(RUN, waits="x" * (MAX_FLUSH_BYTES // 3)),
        make_member(RUN, output=b"x" * (MAX_FLUSH_BYTES // 3)),
        make_member(RUN, error=b"x" * (MAX_FLUSH_BYTES // 3)),
        make_task_run(input=b"x" * (MAX_FLUSH_BYTES // 3)),
        make_finish(SINGLE, output=b"x" * (MAX_FLUSH_BYTES // 3)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_flush_is_bounded_in_bytes(bench, record):
    for _ in range(5):
        bench.append(record._replace(id=new_id()))
    assert sum(map(len, bench.flush())) == 3
    bench.end()
    assert sum(map(len, bench.flush())) == 2


async def test_every_order_that_fits_a_flush_is_one_that_the_store_takes():
    """Appends of a run's whole life, replays included, flushed wherever `fits` allows, commit without a refusal."""
    probe = Bench()
    epoch = await probe.store.open_shards()
    run, single = make_run(), make_task_run()
    first, second = make_member(run), make_member(run)
    again = second._replace(attempt=1)
    kept = first._replace(state=TaskRunState.COMPLETED, finished_at=1, output=b"{}")
    life = [
        [run, first, second],
        [make_update(first), single],
        [make_settle(first), make_update(second)],
        [make_finish(single)],
        [make_settle(second), make_run_finish(run, 2)],
        [RunRevival(single.id, TENANT, 1), single._replace(attempt=1)],
        [RunRevival(run.id, TENANT, 3), run, kept, again],
        [make_update(again, expected_attempt=1)],
        [make_settle(again, expected_attempt=1, attempt=1)],
        [make_finish(single, expected_attempt=1, attempt=1)],
        [make_run_finish(run, 2)],
    ]
    for records in life:
        probe.append(*records)
    flushes = 0
    while (batch := probe.flush()) is not None:
        flushes += 1
        await probe.store.commit(epoch, flushes, (0,), batch)
        probe.end()
    assert 1 < flushes < len(life)
    assert not probe.store.disk.live
    assert {row.attempt for row in probe.store.disk.finished.values()} == {0, 1}
    assert len(probe.store.disk.finished) == 4


def bulk_of(count):
    return [make_task_run() for _ in range(count)]


def test_a_short_lane_goes_before_a_bulk_in_a_flush_of_its_own(bench):
    for row in bulk_of(MAX_ROWS_SHARED * 2):
        bench.append(row, lane="bulk")
    single = make_task_run()
    bench.append(single, lane="single")
    assert bench.flush().created == (single,)
    bench.end()
    assert len(bench.flush().created) == MAX_ROWS_SHARED


def test_a_bulk_waits_for_one_flush_of_short_lanes_at_most(bench):
    bulk, first, second, third = bulk_of(MAX_ROWS_SHARED // 2), *bulk_of(3)
    bench.append(*bulk, lane="bulk")
    bench.append(first, lane="single")
    assert bench.flush().created == (first,)
    bench.append(second, lane="single")
    bench.end()
    assert set(bench.flush().created) == {*bulk, second}
    bench.append(*bulk_of(MAX_ROWS_SHARED // 2), lane="bulk")
    bench.append(third, lane="single")
    bench.end()
    assert bench.flush().created == (third,)


def test_rows_of_a_short_lane_ride_with_a_bulk_that_is_larger_than_a_flush(bench):
    bulk = bulk_of(MAX_ROWS_SHARED * 2 - RIDER_ROWS)
    bench.append(*bulk, lane="bulk")
    bench.append(make_task_run(), lane="other")
    bench.flush()
    riders = bulk_of(RIDER_ROWS + 1)
    for row in riders:
        bench.append(row, lane="other")
    bench.end()
    assert set(bench.flush().created) == {*bulk, *riders[:RIDER_ROWS]}
    bench.end()
    assert bench.flush().created == (riders[RIDER_ROWS],)


def test_an_append_that_finds_no_room_is_first_in_the_next_flush(bench):
    first, second, third = (bulk_of(MAX_ROWS_SHARED * 2 // 3) for _ in range(3))
    bench.append(*first, lane="a")
    bench.append(*second, lane="b")
    assert set(bench.flush().created) == set(first)
    bench.append(*third, lane="a")
    bench.end()
    assert set(bench.flush().created) == set(second)
    bench.end()
    assert set(bench.flush().created) == set(third)


def test_a_lane_that_was_cut_off_is_next(bench):
    for _ in range(MAX_ROWS_SHARED + 1):
        bench.append(make_task_run(), lane="a")
    bench.append(make_task_run(), lane="b")
    bench.flush()
    bench.end()
    late = make_task_run()
    bench.append(late, lane="c")
    assert late in bench.flush().created


def test_log_lines_wait_for_company(bench):
    said = bench.append(make_log(new_id()))
    assert [timer.method for timer in said.timers] == ["flush_logs"]
    assert not said.sends
    bench.append(make_task_run())
    assert len(bench.flush().logs) == 1


@pytest.mark.parametrize("pauses", [1, 6])
def test_postgres_away_tries_the_same_flush_again_and_lets_nothing_leave(bench, pauses):
    bench.append(make_task_run(), effects=("told",))
    batch = bench.flush()
    for _ in range(pauses):
        said = bench.end(Unavailable("away"))
        assert bench.left(said) == []
        (timer,) = said.timers
        assert timer.delay_us <= 1_000_000
        (fetch,) = bench.probe.fire(timer).fetches
        assert fetch.args[1] == 1
        assert fetch.args[3] == batch
    assert bench.left(bench.end()) == ["told"]


def test_an_unknown_outcome_is_asked_for(bench):
    bench.append(make_task_run(), effects=("told",))
    bench.flush()
    (fetch,) = bench.end(CommitUnknown(1, "lost")).fetches
    assert fetch.function == bench.store.read_flush
    assert bench.left(bench.probe.call("outcome", None, (EPOCH, 1), None)) == ["told"]


def test_a_commit_that_did_not_happen_is_done_again_under_its_number(bench):
    bench.append(make_task_run(), effects=("told",))
    bench.flush()
    bench.end(CommitUnknown(1, "lost"))
    said = bench.probe.call("outcome", None, (EPOCH, 0), None)
    assert bench.left(said) == []
    assert said.fetches[0].args[1] == 1


def test_an_outcome_that_cannot_be_read_is_asked_for_again(bench):
    bench.append(make_task_run())
    bench.flush()
    bench.end(CommitUnknown(1, "lost"))
    (timer,) = bench.probe.call("outcome", None, None, Unavailable("away")).timers
    assert bench.probe.fire(timer).fetches[0].function == bench.store.read_flush


def test_a_newer_epoch_ends_all_writing(bench):
    bench.append(make_task_run(), effects=("told",))
    bench.flush()
    bench.end(CommitUnknown(1, "lost"))
    assert bench.left(bench.probe.call("outcome", None, (EPOCH + 1, 1), None)) == []
    assert bench.fenced == [True]
    bench.append(make_task_run())
    assert bench.flush() is None


def test_a_fenced_commit_ends_all_writing(bench):
    bench.append(make_task_run(), effects=("told",))
    bench.flush()
    assert bench.left(bench.end(Fenced(EPOCH))) == []
    assert bench.fenced == [True]
    assert bench.flush() is None


def test_one_bad_record_is_found_and_the_others_commit_in_order(bench):
    owner = peer("owner")
    bench.probe.call("set_owner", "t", owner)
    rows = [make_task_run() for _ in range(7)]
    for number, row in enumerate(rows):
        bench.append(row, effects=(number,))
    bad, refused, left = rows[4], [], []
    batch = bench.flush()
    while batch is not None:
        said = bench.end(RefusedRecords("bad", [bad.id]) if bad in batch.created else None)
        left += bench.left(said)
        refused += [sent for sent in said.sends if sent.method == "records_refused"]
        batch = bench.flush()
    assert left == [0, 1, 2, 3, 5, 6]
    (sent,) = refused
    assert sent.to is owner
    assert sent.args[0] == (bad,)


def test_halves_of_a_refused_flush_go_before_anything_newer(bench):
    first, second, newer = make_task_run(), make_task_run(), make_task_run()
    bench.append(first)
    bench.append(second)
    bench.flush()
    bench.append(newer)
    bench.end(RefusedRecords("bad"))
    assert bench.flush().created == (first,)
    bench.end()
    assert bench.flush().created == (second,)


def test_the_dead_say_nothing_but_what_they_recorded_commits(bench):
    for _ in range(2):
        bench.append(make_task_run(), effects=("old",))
        bench.flush()
    bench.append(make_task_run(), lane="other", effects=("alive",))
    bench.probe.call("drop_effects", "t")
    left = bench.left(bench.end())
    while bench.flush() is not None:
        left += bench.left(bench.end())
    assert left == ["alive"]


def test_drained_is_told_once_nothing_of_the_lane_is_pending(bench):
    then = peer("supervisor").drained
    assert bench.probe.call("drain", "t", then, "t").sends == [Sent(then.handle, "drained", ("t",))]
    bench.append(make_task_run())
    bench.flush()
    bench.append(make_log(new_id()))
    assert not any(sent.method == "drained" for sent in bench.probe.call("drain", "t", then, "t").sends)
    assert not any(sent.method == "drained" for sent in bench.end().sends)
    assert len(bench.flush().logs) == 1
    assert Sent(then.handle, "drained", ("t",)) in bench.end().sends
