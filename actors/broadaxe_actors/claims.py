"""`Claims`: who was first with a spawn key, or with an idempotency key. One per tenant.

A parent task run's children are remembered by `child_key`, or else `child_index`, over all its attempts, reassignments and
replays (behaviour-core 4.4.2): a retried parent gets the children of its first attempt. What earlier attempts spawned is read from Postgres
once, at the first claim of an attempt that may have predecessors.

An idempotency key belongs to the tenant, whatever the workflow, from the creation of a run until it expires or is released (behaviour-core
4.6). `RunTracker` records a claim together with its run; what memory does not hold is read from Postgres.
May touch the runtime and the store's port.
"""

from collections import Counter, OrderedDict
from typing import Any, NamedTuple

from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import IdempotencyKeyRow
from broadaxe_storage.store import ShardStore


class ClaimRequest(NamedTuple):
    """One run that a parent wants to spawn under a key."""

    parent_task_run_id: str
    key: str
    run_id: str
    """Who gets the key if it is free."""
    may_have_history: bool


class KeyRequest(NamedTuple):
    """One run that claims an idempotency key."""

    key: str
    run_id: str
    expires_at: int


class _Claim:
    __slots__ = ("expires_at", "is_committed", "run_id")

    def __init__(self, run_id: str, expires_at: int, *, is_committed: bool) -> None:
        self.run_id = run_id
        self.expires_at = expires_at
        self.is_committed = is_committed


KEYS_KEPT = 50_000
"""Committed claims in memory; the others are read when they are asked for."""
RELEASES_KEPT = 10_000
"""Claims that ended lately: a read that was under way, or comes before the commit, still finds them."""
PURGE_EVERY_US = 60_000_000
PURGE_LIMIT = 5_000


def spawn_key(child_index: int, child_key: str | None) -> str:
    """The name under which a child is remembered; a key replaces the index."""
    return f"k:{child_key}" if child_key else f"i:{child_index}"


class Claims(Actor):
    """See the module."""

    def __init__(self, tenant_id: str, store: ShardStore) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._store = store
        self._tracker: Handle[Any] | None = None
        self._children: dict[str, dict[str, str]] = {}
        """By parent task run: spawn key to run id."""
        self._waiting: dict[str, list[tuple[int, tuple[ClaimRequest, ...]]]] = {}
        """By parent whose history is being read: jobs that wait for it."""
        self._keys: OrderedDict[str, _Claim | None] = OrderedDict()
        """By idempotency key: who has it; None for one that Postgres does not know."""
        self._reading: Counter[str] = Counter()
        """Keys that are being read: what is claimed meanwhile must not be forgotten before the answer, which does not know of it."""
        self._released: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Keys and the runs that do not have them any more."""
        self._purged_at = self.clock.monotonic()

    def connect(self, tracker: "Handle[Any]") -> None:
        """Whom to answer."""
        self._tracker = tracker

    def claim(self, job: int, requests: tuple[ClaimRequest, ...]) -> None:
        """Claim keys; answered with `RunTracker.claimed(job, run ids)`, the owner's id for each request."""
        for request in requests:
            parent = request.parent_task_run_id
            if parent in self._waiting:
                self._waiting[parent].append((job, requests))
                return
            if parent not in self._children:
                if request.may_have_history:
                    self._waiting[parent] = [(job, requests)]
                    self.fetch(
                        self._store.fetch_children,
                        self._tenant_id,
                        parent,
                        then=self.me.loaded,
                        context=parent,
                    )
                    return
                self._children[parent] = {}
        assert self._tracker is not None
        self._tracker.claimed.send(
            job,
            tuple(
                self._children[request.parent_task_run_id].setdefault(request.key, request.run_id)
                for request in requests
            ),
        )

    def loaded(
        self,
        parent: str,
        rows: list[tuple[int | None, str | None, str]] | None,
        error: BaseException | None,
    ) -> None:
        """What a parent spawned before has been read."""
        waiting = self._waiting.pop(parent)
        if error is not None:
            assert self._tracker is not None
            for job, _ in waiting:
                self._tracker.claim_failed.send(job, str(error))
            return
        assert rows is not None
        self._children[parent] = {
            spawn_key(index, key): run_id for index, key, run_id in rows if index is not None
        }
        for job, requests in waiting:
            self.claim(job, requests)

    def unclaim(self, claims: tuple[tuple[str, str, str], ...]) -> None:
        """Claims (parent, key, run id) whose runs were not created after all."""
        for parent, key, run_id in claims:
            children = self._children.get(parent)
            if children is not None and children.get(key) == run_id:
                del children[key]

    def forget(self, parents: tuple[str, ...]) -> None:
        """These parents have ended; a replay reads their children again."""
        for parent in parents:
            self._children.pop(parent, None)

    # ------------------------------------------------------------ idempotency keys

    def claim_keys(self, job: int, requests: tuple[KeyRequest, ...]) -> None:
        """Claim idempotency keys; answered with `RunTracker.keys_claimed(job, run ids)`, the owner's id for each request."""
        if any(request.key not in self._keys for request in requests):
            # All of them, as those in memory may be forgotten meanwhile.
            keys = [request.key for request in requests]
            self._reading.update(keys)
            self.fetch(
                self._store.fetch_idempotency_keys,
                self._tenant_id,
                keys,
                self.clock.now(),
                then=self.me.keys_loaded,
                context=(job, requests),
            )
            return
        now = self.clock.now()
        owners: list[str] = []
        for request in requests:
            claim = self._keys[request.key]
            if claim is None or claim.expires_at <= now:
                claim = self._keys[request.key] = _Claim(
                    request.run_id, request.expires_at, is_committed=False
                )
            self._keys.move_to_end(request.key)
            owners.append(claim.run_id)
        assert self._tracker is not None
        self._tracker.keys_claimed.send(job, tuple(owners))

    def keys_loaded(
        self,
        context: tuple[int, tuple[KeyRequest, ...]],
        rows: list[IdempotencyKeyRow] | None,
        error: BaseException | None,
    ) -> None:
        """Keys that memory did not hold have been read."""
        job, requests = context
        self._reading -= Counter(request.key for request in requests)
        if error is not None:
            assert self._tracker is not None
            self._tracker.claim_failed.send(job, str(error))
            return
        assert rows is not None
        found = {row.key: row for row in rows}
        for request in requests:
            # Another claim may have come while this was read; it knows better.
            if request.key not in self._keys:
                row = found.get(request.key)
                if row is not None and (row.key, row.run_id) in self._released:
                    row = None
                self._keys[request.key] = (
                    None if row is None else _Claim(row.run_id, row.expires_at, is_committed=True)
                )
        self.claim_keys(job, requests)
        self._purge()

    def keys_committed(self, claims: tuple[tuple[str, str], ...]) -> None:
        """These claims (key, run id) are durable: they may be forgotten when room is needed."""
        for key, run_id in claims:
            claim = self._keys.get(key)
            if claim is not None and claim.run_id == run_id:
                claim.is_committed = True
        while len(self._keys) > KEYS_KEPT:
            oldest = next(iter(self._keys))
            claim = self._keys[oldest]
            if oldest in self._reading or (claim is not None and not claim.is_committed):
                break
            del self._keys[oldest]

    def unclaim_keys(self, claims: tuple[tuple[str, str], ...]) -> None:
        """Claims (key, run id) whose runs were not created after all."""
        for key, run_id in claims:
            claim = self._keys.get(key)
            if claim is not None and claim.run_id == run_id:
                del self._keys[key]

    def release_key(self, key: str, run_id: str) -> None:
        """The run that holds this key has ended, and its claim with it. Sent in the turn that records so."""
        self._released[key, run_id] = None
        while len(self._released) > RELEASES_KEPT:
            self._released.popitem(last=False)
        claim = self._keys.get(key)
        if claim is not None and claim.run_id == run_id:
            self._keys[key] = None

    def _purge(self) -> None:
        """Now and then, and only while keys are claimed: take expired claims out of the record."""
        now = self.clock.monotonic()
        if now - self._purged_at >= PURGE_EVERY_US:
            self._purged_at = now
            self.fetch(self._store.purge_idempotency_keys, self.clock.now(), PURGE_LIMIT, then=self.me.purged)

    def purged(self, _context: object, _count: int | None, error: BaseException | None) -> None:
        """Expired claims are gone; if they could not be taken out now, the next time will do."""
        if error is not None and not isinstance(error, Unavailable):
            raise error
