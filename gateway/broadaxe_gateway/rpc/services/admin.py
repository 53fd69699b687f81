"""`v1.AdminService`: workflows registered; runs triggered, read, cancelled and replayed."""

import asyncio
from typing import TYPE_CHECKING

from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import CancelRuns, GetRun, PutWorkflow, ReplayRuns, TriggerRuns
from broadaxe_actors.not_enforced import not_enforced
from broadaxe_gateway import selection
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.convert import definitions, runs
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES, check_uuid
from broadaxe_gateway.rpc.convert.collisions import for_one
from broadaxe_gateway.rpc.guard import WithTrailer
from broadaxe_gateway.rpc.limits import GrpcLimits

if TYPE_CHECKING:
    from broadaxe.wire.v1 import workflows_pb2 as wire


NOT_ENFORCED = "broadaxe-not-enforced"
"""Trailing metadata of `PutWorkflow`: the features of the definition that are stored and not enforced yet, split by commas."""


class AdminService:
    """Method names are the wire's; what is missing here is answered UNIMPLEMENTED."""

    def __init__(self, hub: Hub, limits: GrpcLimits, *, is_replay_enabled: bool) -> None:
        self._hub = hub
        self._limits = limits
        self._is_replay_enabled = is_replay_enabled

    async def PutWorkflow(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.CreateWorkflowVersionRequest"
    ) -> "wire.CreateWorkflowVersionResponse | WithTrailer":
        definition = definitions.workflow_definition(request)
        registered = await self._hub.ask(PutWorkflow, tenant_id, definition)
        response = definitions.workflow_registered(registered)
        features = not_enforced(definition)
        return WithTrailer(response, ((NOT_ENFORCED, ",".join(features)),)) if features else response

    async def TriggerWorkflowRun(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.TriggerWorkflowRunRequest"
    ) -> "wire.TriggerWorkflowRunResponse":
        run_id = self._hub.new_id()
        if len(request.input) > OFF_LOOP_BYTES:
            run = await asyncio.to_thread(runs.new_admin_run, request, run_id)
        else:
            run = runs.new_admin_run(request, run_id)
        try:
            (created,) = await self._hub.ask(TriggerRuns, tenant_id, (run,))
        except Refused as refusal:
            raise for_one(refusal) from None
        return runs.admin_triggered(created)

    async def GetRunDetails(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.GetRunDetailsRequest"
    ) -> "wire.GetRunDetailsResponse":
        run_id = check_uuid(request.external_id, "external_id")
        details = await self._hub.ask(GetRun, tenant_id, run_id)
        return runs.run_details(details, self._limits.max_message_bytes)

    async def CancelTasks(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.CancelTasksRequest"
    ) -> "wire.CancelTasksResponse":
        ids, run_filter = runs.selected(request)
        acted_on = await self._hub.ask(CancelRuns, tenant_id, ids, run_filter)
        # Ids that were asked for are told back whole, as the contract has it; what a filter met, nobody knows before.
        return runs.cancelled(ids or acted_on)

    async def ReplayTasks(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.ReplayTasksRequest"
    ) -> "wire.ReplayTasksResponse":
        selection.check_replay_enabled(is_enabled=self._is_replay_enabled)
        return runs.replayed(await self._hub.ask(ReplayRuns, tenant_id, *runs.selected(request)))
