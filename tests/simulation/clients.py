"""The clients of a simulation: they trigger, push events, cancel, replay and read, over a way that may break."""

import asyncio
import json
from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CancelRuns,
    GetRun,
    IdempotencyCollisions,
    NewEvent,
    NewRun,
    PauseWorkflow,
    PushEvents,
    PutRateLimit,
    PutWorkflow,
    ReplayRuns,
    TriggerRuns,
    UnpauseWorkflow,
)
from broadaxe_storage.records import RunFilter, TaskRunState
from tests.simulation.chaos import Violation
from tests.simulation.gateway import LinkLost, SimGateway
from tests.simulation.oracle import Pushed
from tests.simulation.timed import Timed
from tests.simulation.workflows import (
    EVENT_KEYS,
    LIMITED,
    ONCE,
    RATED,
    SCOPES,
    SINGLES,
    STARTING_KEYS,
    make_payload,
)

REFUSED_BY_PLAN = "guard that is not met"
BATCHES = 8
"""Values of the metadata key by which filters choose."""
WEIGHTS = {
    "single": 6,
    "several": 3,
    "limited": 3,
    "rated": 2,
    "put_limits": 0.5,
    "lone": 2,
    "once": 2,
    "push": 3,
    "bad": 0.5,
    "cancel": 1,
    "cancel_filter": 0.3,
    "replay": 1.2,
    "replay_filter": 0.25,
    "read": 0.4,
    "pause": 0.15,
    "schedule": 0.6,
    "meddle": 0.8,
    "cron": 0.25,
}


class Client(Timed):
    """One client of a tenant, at one gateway. `run` is its life."""

    def __init__(self, sim: Any, tenant_id: str, gateway: SimGateway) -> None:
        self.sim = sim
        self.chaos = sim.chaos
        self.rng = sim.rng
        self.tenant_id = tenant_id
        self.gateway = gateway
        # Each simulation leaves some kinds out, so that the others meet more of their own.
        self._weights = {
            name: weight
            for name, weight in WEIGHTS.items()
            if name in ("single", "push") or self.rng.random() < 0.7
        }

    async def run(self, busy_seconds: float) -> None:
        self.sim.asking += 1
        await self._live(busy_seconds)
        self.sim.asking -= 1

    async def _live(self, busy_seconds: float) -> None:
        end = self.sim.clock.monotonic() + round(busy_seconds * 1e6)
        while not await self._put_workflows(self.sim.workflows):  # noqa: ASYNC110 - the answer is what is awaited
            await asyncio.sleep(0.1)
        await self._put_limits()
        rate = self.rng.choice((3.0, 10.0))
        if self.rng.random() < 0.4:
            # More than the lines take, so that whole runs wait in Postgres.
            runs = tuple(self._new_run("dag-crossed", self._payload()) for _ in range(40))
            self.sim.keep(self._trigger(runs))
        names, weights = tuple(self._weights), tuple(self._weights.values())
        newer_at = self.sim.clock.monotonic() + round(self.rng.uniform(0.2, 0.8) * busy_seconds * 1e6)
        while self.sim.clock.monotonic() < end:
            await asyncio.sleep(self.rng.expovariate(rate))
            (choice,) = self.rng.choices(names, weights)
            self.sim.keep(getattr(self, f"_{choice}")())
            if self.sim.clock.monotonic() > newer_at:
                newer_at = end
                await self._put_workflows(self.sim.newer)

    async def _put_workflows(self, definitions: Any) -> bool:
        for name, definition in definitions.items():
            await self.gateway.up.wait()
            try:
                answer = await self.gateway.ask(PutWorkflow, self.tenant_id, definition)
            except (LinkLost, Refused):
                return False
            self.sim.latest_versions[self.tenant_id, name] = answer.version_id
            self.sim.workflow_ids[self.tenant_id, name] = answer.workflow_id
        return True

    # ------------------------------------------------------------ triggers

    def _new_run(self, name: str, payload: bytes) -> NewRun:
        run_id = self.sim.new_id()
        batch = f"b{self.rng.randrange(BATCHES)}"
        self.sim.metadata[run_id] = batch
        return NewRun(
            name,
            payload,
            json.dumps({"batch": batch}),
            run_id=run_id,
            priority=self.rng.choice((None, 1, 2, 3)),
        )

    def _payload(self) -> bytes:
        return b"x" * self.rng.randrange(8)

    async def _single(self) -> None:
        rng = self.rng
        if self.chaos.happens(0.008):
            await self._trigger(tuple(self._new_run("fast", self._payload()) for _ in range(300)))
            return
        size = rng.choice((1, 1, 1, 1, 3, 12))
        await self._trigger(tuple(self._new_run(rng.choice(SINGLES), self._payload()) for _ in range(size)))

    async def _several(self) -> None:
        names = tuple(name for name in self.sim.workflows if name.startswith("dag"))
        size = self.rng.choice((1, 1, 2, 2, 5, 14, 40))
        if size > 5:
            names = (self.rng.choice((*names, "evented-dag", "dag-crossed")),)
        await self._trigger(
            tuple(self._new_run(self.rng.choice(names), self._payload()) for _ in range(size))
        )

    async def _lone(self) -> None:
        size = self.rng.choice((1, 1, 3))
        if self.rng.random() < 0.7:
            self.sim.keep(self._push_soon())
        await self._trigger(
            tuple(self._new_run(f"lone{self.rng.randrange(3)}", self._payload()) for _ in range(size))
        )

    async def _once(self) -> None:
        size = self.rng.choice((1, 1, 2, 5))
        await self._trigger(
            tuple(
                self._new_run(
                    self.rng.choice(ONCE),
                    json.dumps(
                        {"key": f"k{self.rng.randrange(6)}", "l": self.rng.choice(([9], [1]))}
                    ).encode(),
                )
                for _ in range(size)
            )
        )

    async def _put_limits(self) -> None:
        """Limits that two workflows share; now and then others than before."""
        for key in ("a", "b"):
            limit = self.rng.choice((8, 20, 30))
            while True:
                await self.gateway.up.wait()
                try:
                    await self.gateway.ask(PutRateLimit, self.tenant_id, key, limit, 1_000_000)
                except (LinkLost, Refused):
                    await asyncio.sleep(0.1)
                else:
                    break

    async def _rated(self) -> None:
        await self._keyed(self.rng.choice(RATED))

    async def _limited(self) -> None:
        await self._keyed(self.rng.choice(LIMITED))

    async def _keyed(self, name: str) -> None:
        size = self.rng.choice((1, 2, 4, 9))
        await self._trigger(
            tuple(
                self._new_run(
                    name,
                    json.dumps(
                        {"key": f"k{self.rng.randrange(3)}", "l": self.rng.choice(([9], [1]))}
                    ).encode(),
                )
                for _ in range(size)
            )
        )

    async def _trigger(self, runs: tuple[NewRun, ...]) -> None:
        ids = tuple(run.run_id for run in runs)
        watched = ids if self.rng.random() < 0.5 else ()
        if self.rng.random() < 0.3:
            for run_id in watched:
                self.gateway.watch(self.tenant_id, run_id)
        self.sim.asking += 1
        made = await self._have_made(runs)
        self.sim.asking -= 1
        for run_id in watched:
            if run_id in made:
                self.gateway.watch(self.tenant_id, run_id)
            else:
                self.gateway.watches.pop((self.tenant_id, run_id), None)
        if made == ids and self.chaos.happens(0.1):
            self.chaos.hit("trigger repeated")
            await asyncio.sleep(self.rng.choice((0.0, 0.5, 20.0)))
            await self._repeat(runs)
        if self.rng.random() < 0.2:
            await asyncio.sleep(self.rng.uniform(0, 30))
            for run_id in watched:
                if run_id in made:
                    self.gateway.watch(self.tenant_id, run_id)

    async def _repeat(self, runs: tuple[NewRun, ...]) -> None:
        """Once more, as a client does that saw no answer: it is answered with the runs that exist."""
        await self.gateway.up.wait()
        try:
            await self.gateway.ask(TriggerRuns, self.tenant_id, runs, True)
        except LinkLost:
            return
        except Refused as refused:
            if refused.code not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                self.sim.fail(Violation(f"a repeated trigger of runs that exist was refused: {refused!r}"))

    async def _have_made(self, runs: tuple[NewRun, ...]) -> tuple[str, ...]:
        """Ask until there is an answer; the ids of the runs that exist then."""
        ids = tuple(run.run_id for run in runs)
        is_repeat = False
        while True:
            await self.gateway.up.wait()
            sent_at = self.sim.clock.now()
            try:
                answer = await self.gateway.ask(TriggerRuns, self.tenant_id, runs, is_repeat)
            except LinkLost:
                is_repeat = True
            except Refused as refused:
                if REFUSED_BY_PLAN in refused.message:
                    return ()
                if isinstance(refused.detail, IdempotencyCollisions):
                    asked = TriggerRuns(0, self.tenant_id, runs, is_repeat)
                    self.sim.check.collided(asked, refused.detail, sent_at)
                    ids = refused.detail.created_run_ids
                    break
                if refused.code not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                    self.sim.fail(Violation(f"a good trigger was refused: {refused!r}"))
                    return ()
                is_repeat = True
            else:
                if answer != ids:
                    self.sim.fail(Violation(f"asked for runs {ids}, was answered {answer}"))
                break
            await asyncio.sleep(0.2)
        for run_id in ids:
            self.sim.acknowledged_at[run_id] = self.sim.clock.now()
        return ids

    async def _bad(self) -> None:
        """A record that Postgres refuses costs its caller only."""
        self.chaos.hit("bad record")
        await self.gateway.up.wait()
        name = self.rng.choice(("fast", "dag0", "once-status"))
        run = NewRun(name, b'{"key":"bad","l":[]}', run_id=self.sim.new_id(), child_index=1 << 40)
        try:
            await self.gateway.ask(TriggerRuns, self.tenant_id, (run,))
        except (LinkLost, Refused):
            return
        self.sim.fail(Violation("a record out of range was acknowledged"))

    # ------------------------------------------------------------ events

    async def _push(self) -> None:
        keys = (*STARTING_KEYS, "nobody-cares", *EVENT_KEYS, *EVENT_KEYS)
        count = self.rng.choice((1, 1, 3))
        await self.push(
            tuple(
                (
                    self.rng.choice(keys),
                    self.rng.choice(SCOPES),
                    make_payload(self.rng, self.rng.getrandbits(48)),
                )
                for _ in range(count)
            )
        )

    async def _push_soon(self) -> None:
        """Events that fit most waits, while the run that waits for them is being made."""
        await asyncio.sleep(self.rng.uniform(0, 0.003))
        payload = {"who": self.rng.choice(("a", "b")), "n": 9, "l": [9]}
        await self.push(
            tuple(
                (key, scope, {**payload, "nonce": self.rng.getrandbits(48)})
                for key in EVENT_KEYS
                for scope in SCOPES[1:]
            )
        )

    async def push(self, events: tuple[tuple[str, str | None, dict[str, Any]], ...]) -> None:
        """Push events of this key, scope and payload; whether they arrive is not asked."""
        await self.gateway.up.wait()
        for key, scope, payload in events:
            self.sim.check.pushed[payload["nonce"]] = Pushed(self.tenant_id, key, scope, payload)
        messages = tuple(
            NewEvent(key, json.dumps(payload).encode(), scope=scope) for key, scope, payload in events
        )
        try:
            await self.gateway.ask(PushEvents, self.tenant_id, messages)
        except (LinkLost, Refused):
            return

    async def push_all(self) -> None:
        """Events that end every wait there is."""
        payloads = ({"who": who, "n": 9, "l": [9], "nonce": self.rng.getrandbits(48)} for who in ("a", "b"))
        for payload in payloads:
            for key in EVENT_KEYS:
                await self.push(
                    tuple((key, scope, {**payload, "nonce": self.rng.getrandbits(48)}) for scope in SCOPES)
                )

    # ------------------------------------------------------------ cancel, replay, read

    def _choose(self, rows: Any) -> str | None:
        """A run, or a task run of several, by id."""
        is_task = self.rng.random() < 0.4
        found = [
            row
            for row in rows.values()
            if row.tenant_id == self.tenant_id and (row.id != row.run_id or not is_task)
        ]
        if not found:
            return None
        row = self.rng.choice(found)
        return str(row.id if is_task else row.run_id)

    async def _cancel(self) -> None:
        sim = self.sim
        rows = sim.disk.finished if self.rng.random() < 0.1 else sim.disk.live
        ids = [item for item in (self._choose(rows) for _ in range(self.rng.choice((1, 1, 4)))) if item]
        if not ids:
            return
        for item in ids:
            row = sim.check.stored(item)
            self.chaos.did("cancel of a run" if row is None or row.id == row.run_id else "cancel of a task")
        sim.check.cancel_asked.update(ids)
        await self._ask_to_cancel(tuple(dict.fromkeys(ids)), None)

    async def _cancel_filter(self) -> None:
        batch = f"b{self.rng.randrange(BATCHES)}"
        self.sim.check.cancel_asked.add(batch)
        self.chaos.did("cancel by filter")
        await self._ask_to_cancel((), batch)

    async def _ask_to_cancel(self, ids: tuple[str, ...], batch: str | None) -> None:
        await self.gateway.up.wait()
        asked_at = self.sim.clock.now()
        wanted = None if batch is None else RunFilter(0, metadata=(("batch", batch),))
        try:
            done = await self.gateway.ask(CancelRuns, self.tenant_id, ids, wanted)
        except (LinkLost, Refused):
            return
        self.sim.check.cancelled(asked_at, done, self.tenant_id, batch)

    async def _replay(self) -> None:
        sim = self.sim
        rows = sim.disk.live if self.rng.random() < 0.1 else sim.disk.finished
        ids = [item for item in (self._choose(rows) for _ in range(self.rng.choice((1, 2, 4)))) if item]
        if not ids:
            return
        for item in ids:
            row = sim.check.stored(item)
            self.chaos.did("replay of a run" if row is None or row.id == row.run_id else "replay of a task")
        sim.check.replay_asked.update(ids)
        await self._ask_to_replay(tuple(dict.fromkeys(ids)), None)

    async def _replay_filter(self) -> None:
        self.sim.check.is_replay_filtered = True
        self.chaos.did("replay by filter")
        states = self.rng.choice(((TaskRunState.FAILED,), (TaskRunState.CANCELLED, TaskRunState.COMPLETED)))
        batch = f"b{self.rng.randrange(BATCHES)}"
        await self._ask_to_replay((), RunFilter(0, states=states, metadata=(("batch", batch),)))

    async def _ask_to_replay(self, ids: tuple[str, ...], wanted: RunFilter | None) -> None:
        await self.gateway.up.wait()
        asked_at = self.sim.clock.now()
        try:
            done = await self.gateway.ask(ReplayRuns, self.tenant_id, ids, wanted)
        except (LinkLost, Refused):
            return
        self.sim.check.replayed(asked_at, done)
        for item in done:
            row = self.sim.check.stored(item)
            if row is not None and self.rng.random() < 0.7:
                self.gateway.watch(self.tenant_id, row.run_id)

    async def _pause(self) -> None:
        """Pause a workflow for a while. The clients of a tenant share its workflows: who unpauses ends the others' pauses, too."""
        workflow_id = self.rng.choice(
            [item for (tenant_id, _), item in self.sim.workflow_ids.items() if tenant_id == self.tenant_id]
        )
        self.sim.asking += 1
        behaviors = (self.rng.choice(("DROP", "QUEUE")), self.rng.choice(("DROP", "QUEUE")))
        if await self._change_pause(PauseWorkflow, workflow_id, 3_600_000_000, *behaviors):
            self.chaos.did("workflow paused")
        await asyncio.sleep(self.rng.choice((0.05, 0.5, 2.0)) * self.rng.random())
        # Also if the pause was not answered: it may have been made.
        while not await self._change_pause(UnpauseWorkflow, workflow_id):  # noqa: ASYNC110 - the answer is what is awaited
            await asyncio.sleep(0.1)
        self.sim.asking -= 1

    async def _change_pause(self, *message: Any) -> bool:
        await self.gateway.up.wait()
        try:
            await self.gateway.ask(message[0], self.tenant_id, *message[1:])
        except (LinkLost, Refused):
            return False
        return True

    async def _read(self) -> None:
        rows = self.sim.disk.live if self.rng.random() < 0.5 else self.sim.disk.finished
        found = [row.run_id for row in rows.values() if row.tenant_id == self.tenant_id]
        if not found:
            return
        await self.gateway.up.wait()
        try:
            await self.gateway.ask(GetRun, self.tenant_id, self.rng.choice(found))
        except LinkLost:
            return
        except Refused as refused:
            if refused.code not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                self.sim.fail(Violation(f"a run that exists could not be read: {refused!r}"))
