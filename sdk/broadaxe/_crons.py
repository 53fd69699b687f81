"""Crons: made and managed over REST. Every method has an asynchronous form, with `aio_` before its name."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broadaxe._errors import DefinitionError, InvalidInputError
from broadaxe._rest import as_model, in_thread, metadata_items
from broadaxe._validation import checked_json
from broadaxe.models_timers import (
    CronWorkflows,
    CronWorkflowsList,
    CronWorkflowsOrderByField,
    WorkflowRunOrderByDirection,
)

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

ALIASES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly")
_ZONE = re.compile(r"(?:CRON_)?TZ=\S+\s+")
_FIELD = re.compile(
    r"([0-9*/,#?lw-]|sun|mon|tue|wed|thu|fri|sat|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)+",
    re.ASCII | re.IGNORECASE,
)


class CronClient:
    """Makes, lists and deletes crons. Those that a workflow declares with `on_crons` come and go with its registration."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def create(
        self,
        workflow_name: str,
        cron_name: str,
        expression: str,
        input: Mapping[str, Any],  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any],
        priority: int | None = None,
    ) -> CronWorkflows:
        """Run a workflow whenever the expression says, from now on. Durable when the call returns.

        expression: minute, hour, day, month and weekday, in UTC; six fields have the seconds first; or an alias such as `@daily`.
        A workflow has a cron of one name and expression once. Raises `InvalidInputError`, `RequestRefusedError`.
        """
        body = {
            "cronName": cron_name,
            "cronExpression": check_expression(expression, f"cron {cron_name!r}"),
            "input": checked_json(input, f"the input of cron {cron_name!r}"),
            "additionalMetadata": checked_json(
                additional_metadata, f"the additional_metadata of cron {cron_name!r}"
            ),
            **({} if priority is None else {"priority": int(priority)}),
        }
        name = urllib.parse.quote(self._client.namespaced(workflow_name), safe="")
        path = f"{workflows_path(self._client)}/{name}/crons"
        return as_model(CronWorkflows, self._client.rest.call("POST", path, body=body), path)

    aio_create = in_thread(create)

    def delete(self, cron_id: str) -> None:
        """Delete a cron; the runs that it has made go on. Raises `NotFoundError`."""
        self._client.rest.call("DELETE", self._path(cron_id))

    aio_delete = in_thread(delete)

    def list(
        self,
        offset: int | None = None,
        limit: int | None = None,
        workflow_id: str | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        order_by_field: CronWorkflowsOrderByField | None = None,
        order_by_direction: WorkflowRunOrderByDirection | None = None,
        workflow_name: str | None = None,
        cron_name: str | None = None,
    ) -> CronWorkflowsList:
        """Crons, a page of 50 if `limit` is not given, the newest first. additional_metadata: all of these entries."""
        query = {
            "offset": offset,
            "limit": limit,
            "workflowId": workflow_id,
            "additionalMetadata": metadata_items(additional_metadata),
            "orderByField": order_by_field,
            "orderByDirection": order_by_direction,
            "workflowName": None if workflow_name is None else self._client.namespaced(workflow_name),
            "cronName": cron_name,
        }
        return self._client.rest.get(CronWorkflowsList, f"{workflows_path(self._client)}/crons", query)

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def get(self, cron_id: str) -> CronWorkflows:
        """A cron by its id. Raises `NotFoundError`."""
        return self._client.rest.get(CronWorkflows, self._path(cron_id))

    aio_get = in_thread(get)

    def _path(self, cron_id: str) -> str:
        return f"{workflows_path(self._client)}/crons/{cron_id}"


def workflows_path(client: "Broadaxe") -> str:
    return f"/api/v1/tenants/{client.tenant_id}/workflows"


def check_expression(text: str, where: str) -> str:
    """A cron expression without blanks around it. Raises `InvalidInputError` for what has not its form; the server checks the rest."""
    expression = text.strip()
    if expression in ALIASES:
        return expression
    fields = _ZONE.sub("", expression, count=1).split()
    if len(fields) not in {5, 6} or not all(_FIELD.fullmatch(field) for field in fields):
        raise InvalidInputError(
            f"{where}: cron expression {text!r} is not valid: expected 5 fields (minute, hour, day, month, weekday), 6 with the "
            f"seconds first, or one of {', '.join(ALIASES)}"
        )
    return expression


def check_on_cron(text: str, where: str) -> None:
    """Raises `DefinitionError` for a declared cron that is none."""
    if not isinstance(text, str):
        raise DefinitionError(f"{where}: on_crons holds {text!r}: expected cron expressions")
    try:
        check_expression(text, f"{where}: on_crons")
    except InvalidInputError as error:
        raise DefinitionError(str(error)) from None
