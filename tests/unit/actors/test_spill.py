"""What waits in Postgres: the ledger of lines."""

from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.spill import MAX_BYTES, SpillLedger

LINE = ("a:a|default=1|", 1)


@given(st.lists(st.booleans(), max_size=200))
def test_nobody_enters_memory_behind_what_waits_in_postgres(steps):
    """A newcomer waits in Postgres from the window on, and as long as any of its line does; pages are taken in order."""
    ledger = SpillLedger(high=5, low=2, page=3)
    memory, postgres, seq, left = [], [], 0, []
    for enters in steps:
        if enters:
            seq += 1
            (postgres if ledger.enter(LINE) else memory).append(seq)
        elif memory:
            left.append(memory.pop(0))
            ledger.leave(LINE)
        request = ledger.next_page(LINE)
        if request is not None:
            page = [item for item in postgres if item > request.after_seq][: request.limit]
            postgres = [item for item in postgres if item not in page]
            memory.extend(page)
            ledger.paged(LINE, len(page), page[-1] if page else 0, 10)
        assert ledger.depth(LINE) == len(memory) + len(postgres)
        assert ledger.has_spilled() == bool(postgres)
    left += memory
    assert left == sorted(left)


def test_a_page_of_what_is_in_memory_already_is_not_read_again():
    ledger = SpillLedger(high=0, low=5, page=2)
    for _ in range(4):
        ledger.enter(LINE)
    assert ledger.next_page(LINE).after_seq == 0
    ledger.paged(LINE, 0, 2, 0)
    assert ledger.next_page(LINE).after_seq == 2


def test_one_page_at_a_time():
    ledger = SpillLedger(high=0, low=5, page=2)
    ledger.enter(LINE)
    assert ledger.next_page(LINE) is not None
    assert ledger.next_page(LINE) is None
    ledger.page_failed(LINE)
    assert ledger.next_page(LINE) is not None


def test_a_line_that_is_empty_is_forgotten():
    ledger = SpillLedger(high=1, low=5, page=2)
    ledger.enter(LINE)
    ledger.enter(LINE)
    ledger.left_postgres(LINE)
    assert ledger.lines() == [LINE]
    ledger.leave(LINE)
    assert ledger.lines() == []
    assert not ledger.waits_in_postgres(LINE)


def test_heavy_payloads_wait_in_postgres():
    ledger = SpillLedger()
    ledger.hold_bytes(MAX_BYTES + 1)
    assert ledger.enter(LINE)
    ledger.hold_bytes(-MAX_BYTES)
    assert not ledger.enter(("other", 1))
