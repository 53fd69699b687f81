"""`Claims`: who was first with a spawn key. One per tenant.

A parent task run's children are remembered by `child_key`, or else `child_index`, over all its attempts, reassignments and
replays (behaviour-core 4.4.2): a retried parent gets the children of its first attempt. What earlier attempts spawned is read from Postgres
once, at the first claim of an attempt that may have predecessors. May touch the runtime and the store's port.
"""

from typing import Any, NamedTuple

from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.store import ShardStore


class ClaimRequest(NamedTuple):
    """One run that a parent wants to spawn under a key."""

    parent_task_run_id: str
    key: str
    run_id: str
    """Who gets the key if it is free."""
    may_have_history: bool


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
