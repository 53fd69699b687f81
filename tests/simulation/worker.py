"""Workers of a simulation: batched or unary, fast, slow, dying, coming back, reporting twice or late."""

import asyncio
from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    Heartbeat,
    HeldAttempt,
    NewRun,
    RefreshTimeout,
    RegisterWorker,
    ReleaseSlot,
    ReportKind,
    ReportTasks,
    StopWorker,
    TaskReport,
    TriggerRuns,
)
from tests.simulation.gateway import LinkLost, SimGateway
from tests.simulation.workflows import kind_of, make_output


class SimWorker:
    """One worker process. `run` is its life."""

    def __init__(self, sim: Any, tenant_id: str, gateway: SimGateway, name: str) -> None:
        self.sim = sim
        self.chaos = sim.chaos
        self.rng = sim.chaos.rng
        self.tenant_id = tenant_id
        self.gateway = gateway
        self.name = name
        self.is_batched = self.rng.random() < 0.6
        self.slots = self.rng.choice((1, 2, 5, 12))
        self.actions = sim.actions
        self.speed = self.rng.choice((0.2, 1.0, 1.0, 4.0))
        self.id = ""
        self.session_id = ""
        self.running: dict[HeldAttempt, asyncio.Task[None]] = {}
        self._runaways: set[asyncio.Task[None]] = set()
        """Tasks that go on although they were told to stop."""
        self.unacknowledged: dict[int, TaskReport] = {}
        self._next_report = 0
        self._broken = asyncio.Event()
        self._has_heartbeats = True
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_gone = False

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        await self._register()
        self._spawn(self._beat())
        if self.rng.random() < 0.8:
            self._spawn(self._misfortunes())
        while not self.is_gone:
            await self._stay_connected()

    async def _register(self) -> None:
        while True:
            await self.gateway.up.wait()
            try:
                self.id = await self.gateway.ask(
                    RegisterWorker,
                    self.tenant_id,
                    self.name,
                    self.actions,
                    (("default", self.slots),),
                    (),
                    "{}",
                    self.is_batched,
                )
            except (LinkLost, Refused):
                await asyncio.sleep(0.05)
            else:
                self.sim.check.worker_registered(self)
                return

    async def _stay_connected(self) -> None:
        await self.gateway.up.wait()
        self._broken.clear()
        self.session_id = self.sim.new_id()
        held = None
        if self.is_batched:
            reported = (
                HeldAttempt(item.task_run_id, item.attempt or 0) for item in self.unacknowledged.values()
            )
            held = tuple(dict.fromkeys((*self.running, *reported)))
        try:
            await self.gateway.open_session(self, self.session_id, self.is_batched, True, held)
        except LinkLost:
            return
        except Refused as refused:
            if refused.code == Code.NOT_FOUND:
                await self._register()
            await asyncio.sleep(0.1)
            return
        for number in list(self.unacknowledged):
            self._spawn(self._report(number))
        await self._broken.wait()
        self._spawn(self.gateway.close_session(self, self.session_id))
        self.session_id = ""
        if not self.is_gone:
            await asyncio.sleep(self.rng.choice((0.05, 0.3, 2.0, 12.0) if self.chaos.is_on else (0.1,)))

    def session_ended(self) -> None:
        self._broken.set()

    async def _beat(self) -> None:
        while not self.is_gone:
            if self._has_heartbeats and self.id:
                try:
                    if self.is_batched and self.session_id:
                        self.gateway.tell(Heartbeat(0, self.tenant_id, self.id))
                    elif not self.is_batched:
                        await self.gateway.ask(Heartbeat, self.tenant_id, self.id)
                except (LinkLost, Refused):
                    self._broken.set()
            await asyncio.sleep(4.0)

    async def _misfortunes(self) -> None:
        while not self.is_gone:
            await asyncio.sleep(self.rng.uniform(1, 12))
            if not self.chaos.is_on:
                return
            kind = self.rng.randrange(11)
            if kind < 4:
                self.chaos.hit("worker disconnected")
                self._broken.set()
            elif kind < 7:
                self.chaos.hit("worker lost heartbeats")
                self._has_heartbeats = False
                await asyncio.sleep(self.rng.uniform(4, 45))
                self._has_heartbeats = True
            elif kind in (7, 8):
                self.chaos.hit("worker said goodbye")
                self.gateway.tell(StopWorker(0, self.tenant_id, self.id))
                self._die()
            else:
                self.chaos.hit("worker died")
                if self.rng.random() < 0.3:  # without a word: its stream hangs
                    self.gateway.sessions.pop(self.session_id, None)
                self._die()

    def _die(self) -> None:
        self.is_gone = True
        for task in self.running.values():
            task.cancel()
        for task in self._runaways:
            task.cancel()
        self.running.clear()
        self.unacknowledged.clear()
        self._broken.set()
        self.sim.worker_died(self)

    def recover(self) -> None:
        """The faults are over."""
        self._has_heartbeats = True

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.sim.fail(task.exception())

    # ------------------------------------------------------------ work

    def start(self, assignments: Any) -> None:
        if self.is_gone:
            return
        for assignment in assignments:
            held = HeldAttempt(assignment.task_run_id, assignment.attempt)
            is_reported = any(
                (item.task_run_id, item.attempt) == held for item in self.unacknowledged.values()
            )
            if held in self.running or is_reported:
                continue
            task = asyncio.get_running_loop().create_task(self._work(assignment, held))
            self.running[held] = task
            task.add_done_callback(lambda task, held=held: self._worked(task, held))

    def _worked(self, task: "asyncio.Task[None]", held: HeldAttempt) -> None:
        if self.running.get(held) is task:
            del self.running[held]
        if not task.cancelled() and task.exception() is not None:
            self.sim.fail(task.exception())

    def cancel(self, orders: Any) -> None:
        for order in orders:
            held = HeldAttempt(order.task_run_id, order.attempt)
            task = self.running.pop(held, None)
            if task is None:
                continue
            if self.chaos.happens(0.3):
                self.chaos.hit("worker ran on after a cancel")
                self._runaways.add(task)
                task.add_done_callback(self._runaways.discard)
                continue
            task.cancel()
            if self.rng.random() < 0.2:
                self._say(TaskReport(*held, ReportKind.CANCELLED))

    async def _work(self, assignment: Any, held: HeldAttempt) -> None:
        kind = kind_of(assignment.step.task_name)
        rng = self.rng
        if not self.is_batched or rng.random() < 0.5:
            self._say(TaskReport(*held, ReportKind.STARTED))
        await asyncio.sleep(self.speed * (rng.uniform(0, 0.02) if kind == "fast" else rng.uniform(0.01, 1.5)))
        if kind == "hang" and rng.random() < 0.5:
            self.chaos.hit("hang until the time-out")
            await asyncio.Event().wait()
        if kind == "parent":
            await self._spawn_children(assignment)
        elif kind == "refresh":
            await self._ask_for_time(assignment)
        elif kind == "release":
            await self._wait_without_a_slot(assignment)
        if self.chaos.happens(0.03):
            self.chaos.hit("report late")
            await asyncio.sleep(rng.uniform(3, 40))
        payload = make_output(rng, held.attempt)
        if kind == "failing" or (kind in ("flaky", "backoff") and rng.random() < 0.5):
            report = TaskReport(
                *held, ReportKind.FAILED, b"boom " + payload, should_not_retry=rng.random() < 0.1
            )
        else:
            report = TaskReport(*held, ReportKind.COMPLETED, payload)
        self._say(report)
        if self.chaos.happens(0.05):
            self.chaos.hit("report twice")
            self._say(report)

    async def _ask_for_time(self, assignment: Any) -> None:
        """Runs for longer than its time-out, with the engine's consent."""
        try:
            deadline = await self.gateway.ask(
                RefreshTimeout, self.tenant_id, assignment.task_run_id, 4_000_000
            )
        except (LinkLost, Refused):
            return
        self.sim.check.extended(assignment, deadline)
        await asyncio.sleep(self.rng.uniform(0, 4))

    async def _wait_without_a_slot(self, assignment: Any) -> None:
        """Gives its slot back and waits for a child, which may need that very slot."""
        try:
            await self.gateway.ask(ReleaseSlot, self.tenant_id, assignment.task_run_id)
        except (LinkLost, Refused):
            return
        self.sim.check.slot_released(assignment)
        ids = await self._spawn_children(assignment)
        for run_id in ids[:1]:
            await self.gateway.watch(self.tenant_id, run_id)

    async def _spawn_children(self, assignment: Any) -> tuple[str, ...]:
        count = 1 + len(assignment.input) % 4
        runs = tuple(
            NewRun(
                "fast",
                b'{"child":true}',
                run_id=self.sim.new_id(),
                parent_task_run_id=assignment.task_run_id,
                child_index=index,
                # Two children of one key are one child.
                child_key="same" if index >= 2 else None,
            )
            for index in range(count)
        )
        is_repeat = False
        while True:
            await self.gateway.up.wait()
            try:
                ids = await self.gateway.ask(TriggerRuns, self.tenant_id, runs, is_repeat)
            except LinkLost:
                is_repeat = True
                await asyncio.sleep(0.1)
            except Refused as refused:
                if refused.code not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ALREADY_EXISTS):
                    if "guard that is not met" in refused.message:
                        return ()
                    raise
                is_repeat = True
                await asyncio.sleep(0.1)
            else:
                self.sim.check.children_spawned(runs, ids)
                return tuple(ids)

    # ------------------------------------------------------------ reports

    def _say(self, report: TaskReport) -> None:
        self.sim.check.did_report(report)
        number = self._next_report = self._next_report + 1
        self.unacknowledged[number] = report
        if self.session_id or not self.is_batched:
            self._spawn(self._report(number))

    async def _report(self, number: int) -> None:
        """Until it is acknowledged; a batched worker's waits for its next session, as its stream does."""
        while number in self.unacknowledged and not self.is_gone:
            report = self.unacknowledged[number]
            await self.gateway.up.wait()
            try:
                await self.gateway.ask(ReportTasks, self.tenant_id, self.id, (report,))
            except LinkLost:
                if self.is_batched:
                    return
                await asyncio.sleep(0.1)
            except Refused as refused:
                self.sim.check.fail(f"a report was refused: {refused.code.name} {refused.message}")
            else:
                self.unacknowledged.pop(number, None)
                return
