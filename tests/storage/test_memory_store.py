"""`MemoryStore` passes the suite of stores, and plays the faults it promises."""

import pytest

from broadaxe_storage.errors import CommitUnknown, DatabaseInUse, Unavailable
from broadaxe_storage.memory import CommitFault, MemoryDisk, MemoryStore, NoFaults
from broadaxe_storage.records import Batch
from tests.conformance.accounts_suite import *  # noqa: F403 - the suite
from tests.conformance.deletions_suite import *  # noqa: F403 - the suite
from tests.conformance.events_suite import *  # noqa: F403 - the suite
from tests.conformance.pauses_suite import *  # noqa: F403 - the suite
from tests.conformance.rate_limits_suite import *  # noqa: F403 - the suite
from tests.conformance.runs_suite import *  # noqa: F403 - the suite
from tests.conformance.selection_suite import *  # noqa: F403 - the suite
from tests.conformance.store_suite import *  # noqa: F403 - the suite
from tests.conformance.timers_suite import *  # noqa: F403 - the suite
from tests.conformance.usage_suite import *  # noqa: F403 - the suite
from tests.factories import make_task_run


@pytest.fixture
def open_store() -> OpenStore:  # noqa: F405
    disk = MemoryDisk()

    async def open_one() -> MemoryStore:
        return MemoryStore(disk)

    return open_one


class PlannedFaults(NoFaults):
    def __init__(self, *faults: CommitFault) -> None:
        self.faults = list(faults)
        self.is_away = False

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        return self.faults.pop(0)

    async def on_read(self, method: str) -> None:
        if self.is_away:
            raise Unavailable(f"{method}: away")


async def test_faults_of_a_commit_are_played() -> None:
    store = MemoryStore(
        faults=PlannedFaults(CommitFault.UNAVAILABLE, CommitFault.LOST_BEFORE, CommitFault.LOST_AFTER)
    )
    epoch = await store.open_shards()
    row = make_task_run()
    with pytest.raises(Unavailable):
        await store.commit(epoch, 1, (0,), Batch(created=(row,)))
    with pytest.raises(CommitUnknown):
        await store.commit(epoch, 1, (0,), Batch(created=(row,)))
    assert await store.read_flush(0) == (epoch, 0)
    assert not store.disk.live
    with pytest.raises(CommitUnknown):
        await store.commit(epoch, 1, (0,), Batch(created=(row,)))
    assert await store.read_flush(0) == (epoch, 1)
    assert store.disk.live == {row.id: row}


async def test_reads_fail_while_the_database_is_away() -> None:
    faults = PlannedFaults()
    store = MemoryStore(faults=faults)
    faults.is_away = True
    with pytest.raises(Unavailable):
        await store.load_max_seq()


async def test_a_crash_frees_the_lock_and_stops_the_store() -> None:
    disk = MemoryDisk()
    first, second = MemoryStore(disk), MemoryStore(disk)
    epoch = await first.open_shards()
    with pytest.raises(DatabaseInUse):
        await second.open_shards()
    first.crash()
    await second.open_shards()
    with pytest.raises(Unavailable):
        await first.commit(epoch, 1, (0,), Batch(created=(make_task_run(),)))
    assert not disk.live
