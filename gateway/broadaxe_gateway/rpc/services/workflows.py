"""`WorkflowService`: triggers, alone, in bulk and for later; rate limits."""

import asyncio
from typing import TYPE_CHECKING

from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import PauseRateLimit, PutRateLimit, ScheduleRuns, TriggerRuns
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.convert import rate_limits, runs, timers
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES
from broadaxe_gateway.rpc.convert.collisions import for_bulk, for_one
from broadaxe_gateway.rpc.slices import convert_all

if TYPE_CHECKING:
    from broadaxe.wire import workflows_pb2 as wire
    from broadaxe.wire.v1.shared import trigger_pb2


class WorkflowService:
    """Method names are the wire's; what is missing here is answered UNIMPLEMENTED."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def TriggerWorkflow(  # noqa: N802 - wire name
        self, tenant_id: str, request: "trigger_pb2.TriggerWorkflowRequest"
    ) -> "wire.TriggerWorkflowResponse":
        run_id = self._hub.new_id()
        if len(request.input) > OFF_LOOP_BYTES:
            run = await asyncio.to_thread(runs.new_run, request, run_id)
        else:
            run = runs.new_run(request, run_id)
        try:
            (created,) = await self._hub.ask(TriggerRuns, tenant_id, (run,))
        except Refused as refusal:
            raise for_one(refusal) from None
        return runs.triggered(created)

    async def BulkTriggerWorkflow(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.BulkTriggerWorkflowRequest"
    ) -> "wire.BulkTriggerWorkflowResponse":
        count = len(request.workflows)
        runs.check_bulk(count)
        if not count:
            return runs.bulk_triggered(())
        run_ids = [self._hub.new_id() for _ in range(count)]
        new = await convert_all(runs.new_runs, request.ByteSize(), request.workflows, run_ids)
        try:
            return runs.bulk_triggered(await self._hub.ask(TriggerRuns, tenant_id, new))
        except Refused as refusal:
            raise for_bulk(refusal) from None

    async def ScheduleWorkflow(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.ScheduleWorkflowRequest"
    ) -> "wire.WorkflowVersion":
        if len(request.input) > OFF_LOOP_BYTES:
            fields = await asyncio.to_thread(timers.schedule_runs, request)
        else:
            fields = timers.schedule_runs(request)
        scheduled = await self._hub.ask(ScheduleRuns, tenant_id, *fields)
        return timers.runs_scheduled(scheduled, request)

    async def PutRateLimit(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.PutRateLimitRequest"
    ) -> "wire.PutRateLimitResponse":
        await self._hub.ask(PutRateLimit, tenant_id, *rate_limits.put_rate_limit(request))
        return rate_limits.rate_limit_put()

    async def PauseRateLimit(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.PauseRateLimitRequest"
    ) -> "wire.PauseRateLimitResponse":
        until = await self._hub.ask(PauseRateLimit, tenant_id, *rate_limits.pause_rate_limit(request))
        return rate_limits.rate_limit_paused(until)
