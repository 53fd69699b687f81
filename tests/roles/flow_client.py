"""A client process: `flow_client.py SDK TOPICS`. Reads one JSON command a line, answers each by one line that opens with `@@ `.

A command is `{"do": <name of a method of Commands>, ...its arguments}`. Where the two SDKs say a thing differently, it is said here.
"""

import asyncio
import importlib
import json
import sys
import time
import traceback
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from flows.base import Plan, declared, desired_label
from pydantic import BaseModel


def chosen(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def as_options(sdk: ModuleType, **values: Any) -> dict[str, Any]:
    """Options of a run from JSON: `labels` is a list of desired labels, `labels_by_key` the same as a mapping."""
    options = chosen(**values)
    for name, is_mapping in (("labels", False), ("labels_by_key", True)):
        given = options.pop(name, None)
        if given is None:
            continue
        if is_mapping:
            wanted = {key: desired_label(sdk, **label) for key, label in given.items()}
            options["options"] = sdk.TriggerWorkflowOptions(desired_worker_label=wanted)
        else:
            options["desired_worker_labels"] = [desired_label(sdk, **label) for label in given]
    return options


class Commands:
    """What a client process can be told to do; each public method is one command."""

    def __init__(self, sdk: str, topic: str) -> None:
        self._flows = declared(sdk, topic)
        self._client = self._flows.client
        self._sdk = self._flows.sdk

    def _flow(self, name: str) -> Any:
        return self._flows.by_name[name]

    # ---- runs

    async def warm(self, *, within: float = 60.0) -> dict[str, Any]:
        """Runs `ping`, again while the engine does not know it yet: then a worker serves."""
        deadline = time.monotonic() + within
        while True:
            try:
                left = deadline - time.monotonic()
                await asyncio.wait_for(self._flow("ping").aio_run(Plan()), max(0.1, left))
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)  # between two looks for the workflow
            else:
                return {"warm": True}

    async def run(self, *, flow: str, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Runs a flow and answers its result, or what was raised."""
        return await self._outcome(self._flow(flow).aio_run(Plan(**plan), **chosen(**options)))

    async def run_sync(self, *, flow: str, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The blocking call, in a thread of its own."""
        return await self._outcome(asyncio.to_thread(self._flow(flow).run, Plan(**plan), **chosen(**options)))

    async def start(self, *, flow: str, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Triggers a flow without waiting; what the trigger raises is answered."""
        try:
            ref = await self._flow(flow).aio_run_no_wait(Plan(**plan), **as_options(self._sdk, **options))
        except Exception as error:
            return {"raised": self._plain(error)}
        return {"run_id": ref.workflow_run_id}

    async def start_many(self, *, flow: str, plans: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Triggers in bulk without waiting; what the trigger raises is answered."""
        chosen_flow = self._flow(flow)
        items = [chosen_flow.create_bulk_run_item(input=Plan(**plan), **chosen(**options)) for plan in plans]
        try:
            refs = await chosen_flow.aio_run_many_no_wait(items)
        except Exception as error:
            return {"raised": self._plain(error)}
        return {"run_ids": [ref.workflow_run_id for ref in refs]}

    async def run_many(
        self, *, flow: str, plans: list[dict[str, Any]], return_exceptions: bool
    ) -> dict[str, Any]:
        """Runs in bulk and waits for all; failures stand in their places, or the first is raised."""
        chosen_flow = self._flow(flow)
        items = [chosen_flow.create_bulk_run_item(input=Plan(**plan)) for plan in plans]
        try:
            results = await chosen_flow.aio_run_many(items, return_exceptions=return_exceptions)
        except Exception as error:
            return {"raised": self._plain(error)}
        return {"results": [self._plain(result) for result in results]}

    async def result(self, *, flow: str, run_id: str) -> dict[str, Any]:
        """Waits for a run triggered before, whoever triggered it."""
        known = self._flow(flow)
        ref = known.get_run_ref(run_id) if hasattr(known, "get_run_ref") else None
        ref = ref or self._client.runs.get_run_ref(run_id)
        return await self._outcome(ref.aio_result())

    async def details(self, *, run_id: str) -> dict[str, Any]:
        """The run as this SDK reads it: its status and that of its tasks."""
        found = await self._client.runs.aio_get(run_id)
        return {
            "status": found.run.status.value,
            "tasks": {task.display_name.rsplit("-", 1)[0]: task.status.value for task in found.tasks},
        }

    async def status(self, *, run_id: str) -> dict[str, Any]:
        found = await self._client.runs.aio_get_status(run_id)
        return {"status": getattr(found, "value", str(found))}

    async def read(self, *, flow: str, run_id: str) -> dict[str, Any]:
        """What the client reads over HTTP of a run, its task, its workflow and who serves it."""
        client = self._client
        workflow_id = await self._workflow_id(flow)
        run = await client.runs.aio_get(run_id)
        rows = (await client.runs.aio_list(workflow_ids=[workflow_id], limit=100)).rows
        task = await client.runs.aio_get_task_run(run.tasks[0].metadata.id)
        workflow = await client.workflows.aio_get(workflow_id)
        workers = (await client.workers.aio_list()).rows or []
        active = [worker for worker in workers if worker.status == "ACTIVE"]
        worker = await client.workers.aio_get(active[0].metadata.id)
        return {
            "status": run.run.status.value,
            "tasks": sorted(task.display_name.rsplit("-", 1)[0] for task in run.tasks),
            "listed": [row.metadata.id for row in rows],
            "output": task.output,
            "workflow": workflow.name,
            "worker": worker.name,
        }

    async def pause(self, *, name: str, pause: bool) -> dict[str, Any]:
        """Pauses the active workers whose names end so, or lets them go on; over HTTP."""
        found = (await self._client.workers.aio_list()).rows or []
        chosen_ids = [
            row.metadata.id for row in found if row.name.endswith(name) and row.status != "INACTIVE"
        ]
        call = self._client.workers.aio_pause if pause else self._client.workers.aio_unpause
        for worker_id in chosen_ids:
            await call(worker_id)
        return {"workers": len(chosen_ids)}

    async def create(self, *, flow: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Triggers a flow by its name alone; over HTTP."""
        found = await self._client.runs.aio_create(self._flow(flow).name, plan)
        return {"run_id": found.run.metadata.id}

    # ---- cancel and replay

    async def cancel(self, *, run_id: str) -> dict[str, Any]:
        await self._client.runs.aio_cancel(run_id)
        return {}

    async def replay(self, *, run_id: str) -> dict[str, Any]:
        await self._client.runs.aio_replay(run_id)
        return {}

    async def bulk(
        self,
        *,
        action: str,
        ids: list[str] | None = None,
        since: float | None = None,
        statuses: list[str] | None = None,
        workflow_ids: list[str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """`bulk_cancel` or `bulk_replay`, by ids or by a filter. `since` is in seconds ago."""
        options: dict[str, Any] = {"ids": ids}
        if ids is None:
            assert since is not None
            status = getattr(self._sdk, "V1TaskStatus", None) or self._sdk.RunStatus
            options = {
                "filters": self._sdk.RunFilter(
                    since=datetime.now().astimezone() - timedelta(seconds=since),
                    statuses=[status(one) for one in statuses] if statuses else None,
                    workflow_ids=workflow_ids,
                    additional_metadata=metadata,
                )
            }
        call = getattr(self._client.runs, f"aio_bulk_{action}")
        await call(self._sdk.BulkCancelReplayOpts(**options))
        return {}

    async def _workflow_id(self, flow: str) -> str:
        name = self._flow(flow).name
        found = await self._client.workflows.aio_list(workflow_name=name)
        return next(row.metadata.id for row in found.rows if row.name == name)

    async def bulk_paged(
        self, *, action: str, since: float, statuses: list[str], metadata: dict[str, str]
    ) -> dict[str, Any]:
        """The same by a filter, a few runs at a time."""
        status = getattr(self._sdk, "V1TaskStatus", None) or self._sdk.RunStatus
        call = getattr(self._client.runs, f"aio_bulk_{action}_by_filters_with_pagination")
        await call(
            sleep_time=0,
            chunk_size=2,
            since=datetime.now().astimezone() - timedelta(seconds=since),
            statuses=[status(one) for one in statuses],
            additional_metadata=metadata,
        )
        return {}

    # ---- events, logs, streams

    async def push(
        self,
        *,
        key: str,
        payload: dict[str, Any],
        scope: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        event = await self._client.event.aio_push(
            key, payload, **chosen(scope=scope, additional_metadata=metadata)
        )
        return {"event_id": getattr(event, "event_id", None) or getattr(event, "eventId", "")}

    async def feature(self, *, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Calls a method of a flow or a feature client, such as `filters.create`; what it answers as its wire has it, or what it raised."""
        part, method = name.split(".")
        if "updates" in given:
            models = "broadaxe.models" if self._flows.is_ours else "hatchet_sdk.clients.rest.models"
            given["updates"] = importlib.import_module(models).V1UpdateFilterRequest(**given["updates"])
        try:
            owner = getattr(self._client, part, None) or self._flow(part)
            found = await getattr(owner, f"aio_{method}")(**given)
        except Exception as error:
            return {"raised": f"{type(error).__name__}: {error}"}
        return {"value": found.model_dump(mode="json", by_alias=True)}

    async def logs(self, *, task_run_id: str, limit: int = 2000) -> dict[str, Any]:
        """Messages of a task's log lines, as this SDK lists them."""
        found = await self._client.logs.aio_list(task_run_id, limit=limit)
        rows = found.rows or []
        return {"lines": [row.message for row in rows], "retry_counts": [row.retry_count for row in rows]}

    async def stream(self, *, run_ids: list[str], last: str) -> dict[str, Any]:
        """Follows the streams of runs until each has shown the chunk `last`, or ended."""

        async def follow(run_id: str) -> list[str]:
            received: list[str] = []
            async for chunk in self._client.runs.subscribe_to_stream(run_id):
                text = chunk if isinstance(chunk, str) else bytes(chunk).decode()
                received.append(text)
                if text == last:
                    break
            return received

        return {"chunks": await asyncio.gather(*(follow(run_id) for run_id in run_ids))}

    # ---- rate limits

    async def put_limit(self, *, key: str, limit: int, duration: str) -> dict[str, Any]:
        """Declares a static limit; `duration` by name."""
        await self._client.rate_limits.aio_put(key, limit, self._sdk.RateLimitDuration[duration])
        return {}

    # ---- stubs

    async def stub(self, *, name: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Runs a task known by its name alone."""
        stub = self._client.stubs.task(name=name, input_validator=Plan, output_validator=dict[str, Any])
        return await self._outcome(stub.aio_run(Plan(**plan)))

    async def stub_workflow(self, *, name: str, plan: dict[str, Any]) -> dict[str, Any]:
        stub = self._client.stubs.workflow(name=name, input_validator=Plan)
        return await self._outcome(stub.aio_run(Plan(**plan)))

    # ---- answers

    async def _outcome(self, awaitable: Any) -> dict[str, Any]:
        try:
            return {"output": self._plain(await awaitable)}
        except Exception as error:
            return {"raised": self._plain(error)}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            inner = [str(one) for one in getattr(value, "exceptions", ())]
            answer: dict[str, Any] = {
                "raised": type(value).__name__,
                "text": "\n".join([str(value), *inner]),
                "errors": inner,
            }
            for name in ("existing_run_external_id", "existing_run_id"):
                if hasattr(value, name):
                    answer["existing"] = getattr(value, name)
            for name in ("successful_workflow_run_external_ids", "created_run_ids"):
                if getattr(value, name, None):
                    answer["created"] = list(getattr(value, name))
            if hasattr(value, "collisions"):
                answer["collisions"] = [self._plain(one) for one in value.collisions]
            return answer
        if isinstance(value, BaseModel):
            return value.model_dump()
        if isinstance(value, dict):
            return {key: self._plain(one) for key, one in value.items()}
        return value


async def serve(sdk: str, topic: str) -> None:
    commands = Commands(sdk, topic)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = json.dumps(await getattr(commands, command.pop("do"))(**command))
        except Exception:
            answer = json.dumps({"error": traceback.format_exc()})
        print("@@ " + answer, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
