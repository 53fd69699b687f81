"""Who waits for runs, and who follows them: the part of `RunTracker` that delivers results and events."""

from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.followers import Subscription
from broadaxe_actors.messages import (
    CloseSubscription,
    NewChunk,
    OpenSubscription,
    PutStream,
    RunEvent,
    RunEventKind,
    RunFinished,
    UnwatchRuns,
    WatchRuns,
)
from broadaxe_actors.run import results_of
from broadaxe_actors.run_tracker.state import TrackerState
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    FinishedTaskRun,
    TaskRunRow,
)


class Following(TrackerState):
    """Watches, subscriptions, stream chunks."""

    def watch(self, gateway: "Handle[Any]", message: WatchRuns) -> None:
        """Deliver the results of these runs, now or when they end."""
        turn = Turn()
        for run_id in message.run_ids:
            finished = self._recent.get(run_id)
            if finished is not None:
                turn.deliver_after(gateway, finished)
                continue
            if not self._watchers.add(run_id, gateway):
                continue
            if not self._is_live(run_id):
                self._look_ups[run_id] = None
        self._look_up()
        self._close(turn)

    def unwatch(self, gateway: "Handle[Any]", message: UnwatchRuns) -> None:
        """Nobody at that gateway waits any more."""
        for run_id in message.run_ids:
            self._watchers.remove(run_id, gateway)

    def _look_up(self) -> None:
        if self._look_ups and not self._is_looking_up:
            self._is_looking_up = True
            ids = list(self._look_ups)[:1000]
            for run_id in ids:
                del self._look_ups[run_id]
            self.fetch(self._load_finished, ids, then=self.me.looked_up, context=ids)

    def looked_up(
        self, ids: list[str], rows: list[FinishedTaskRun] | None, error: BaseException | None
    ) -> None:
        """Which watched runs had ended already. The others stay pending: they may appear, or wait in Postgres."""
        self._is_looking_up = False
        turn = Turn()
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self._look_ups.update(dict.fromkeys(ids))
            self.set_timer("look_up", 250_000, self.me.look_up_again)
        else:
            assert rows is not None
            for finished in self._finished_runs(rows):
                for gateway in self._watchers.pop(finished.run_id):
                    turn.deliver_after(gateway, finished)
            self._look_up()
        self._close(turn)

    def _finished_runs(self, rows: list[FinishedTaskRun]) -> list[RunFinished]:
        """Ended runs from their rows in the record."""
        by_run: dict[str, list[FinishedTaskRun]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
        found: list[RunFinished] = []
        for run_id, members in by_run.items():
            head = next((row for row in members if row.id == run_id), None)
            if head is not None:
                results = results_of(members, self._catalog.version(head.workflow_version_id))
                found.append(RunFinished(self._tenant_id, run_id, head.state, results))
        return found

    def look_up_again(self) -> None:
        """Postgres may be back."""
        self._look_up()

    def open_subscription(self, gateway: "Handle[Any]", message: OpenSubscription) -> None:
        """Follow a run, or all runs with a metadata key and value."""
        run_id = message.run_id
        if run_id is not None and not self._is_live(run_id):
            if self._recent.get(run_id) is not None:
                self._reply(gateway, message.request_id, False)
                return
            self.fetch(
                self._load_any,
                [run_id],
                then=self.me.subscription_loaded,
                context=(gateway, message),
            )
            return
        self._subscribe(gateway, message)

    def subscription_loaded(
        self,
        context: tuple["Handle[Any]", OpenSubscription],
        result: tuple[list[TaskRunRow], list[FinishedTaskRun]] | None,
        error: BaseException | None,
    ) -> None:
        """Whether a run to be followed exists, when memory does not hold it."""
        gateway, message = context
        if error is not None:
            self._refuse_while_away(gateway, message.request_id, error)
            return
        assert result is not None
        live, finished = result
        if live or self._is_live(message.run_id or ""):
            self._subscribe(gateway, message)
        elif finished:
            self._reply(gateway, message.request_id, False)
        else:
            self._refuse(
                gateway,
                message.request_id,
                Refused(Code.NOT_FOUND, f"workflow run {message.run_id} not found"),
            )

    def _subscribe(self, gateway: "Handle[Any]", message: OpenSubscription) -> None:
        self._subscriptions.add(
            Subscription(
                gateway,
                message.subscription_id,
                message.run_id,
                message.metadata_key,
                message.metadata_value,
            )
        )
        self._reply(gateway, message.request_id, True)

    def close_subscription(self, gateway: "Handle[Any]", message: CloseSubscription) -> None:
        """Nobody follows any more."""
        self._subscriptions.remove(gateway, message.subscription_id)

    def put_stream(self, gateway: "Handle[Any]", message: PutStream) -> None:
        """Pass chunks to who follows; they are never stored, and go out at once."""
        missing = None
        turn = Turn()
        for chunk in message.chunks:
            task = self._live.get(chunk.task_run_id)
            if task is None:
                missing = missing or chunk.task_run_id
            else:
                self._tell_chunk(task, chunk, turn)
        for gateway_handle, messages in turn.deliveries_after.items():
            gateway_handle.deliver.send(tuple(messages))
        if missing is not None and not self._has_ended(missing):
            self._refuse(
                gateway, message.request_id, Refused(Code.NOT_FOUND, f"task run {missing} not found")
            )
        else:
            self._reply(gateway, message.request_id, None)

    def _tell_chunk(self, task: TaskRun, chunk: NewChunk, turn: Turn) -> None:
        event = RunEvent(
            task.run_id,
            False,
            task.id,
            RunEventKind.STREAM,
            self.clock.now(),
            chunk.message,
            task.attempt if chunk.attempt is None else chunk.attempt,
            chunk.index,
        )
        self._send_event(task.metadata, event, turn)
