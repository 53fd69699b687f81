"""Event filters on the server, and the trial of their expressions, over REST. Every method has an asynchronous form, with `aio_` before its name."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broadaxe._errors import InvalidInputError
from broadaxe._rest import as_model, in_thread
from broadaxe._validation import dump
from broadaxe.models import (
    CELEvaluationResult,
    CELFailure,
    CELSuccess,
    V1Filter,
    V1FilterList,
    V1UpdateFilterRequest,
)

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class FiltersClient:
    """Creates, reads, changes and deletes event filters. A workflow that has any is started by the events that one of them lets through."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def list(
        self,
        limit: int | None = None,
        offset: int | None = None,
        workflow_ids: Sequence[str] | None = None,
        scopes: Sequence[str] | None = None,
    ) -> V1FilterList:
        """Filters, oldest first, up to 20,000 if `limit` is not given; declared ones among them. Pages are counted from 0."""
        return self._client.rest.get(
            V1FilterList,
            self._path(),
            {
                "limit": limit,
                "offset": offset,
                "workflowIds": None if workflow_ids is None else [*workflow_ids],
                "scopes": None if scopes is None else [*scopes],
            },
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def get(self, filter_id: str) -> V1Filter:
        """A filter by its id. Raises `NotFoundError`."""
        return self._client.rest.get(V1Filter, self._path(filter_id))

    aio_get = in_thread(get)

    def create(
        self, workflow_id: str, expression: str, scope: str, payload: Mapping[str, Any] | None = None
    ) -> V1Filter:
        """Have events of `scope` start a run of a workflow when `expression` (CEL) is true, with `payload` as `ctx.filter_payload`.

        Counts for every event that is pushed after it returns. Raises `RequestRefusedError` for an unknown workflow, an expression
        that does not compile, and a filter that is there already.
        """
        body = {
            "workflowId": workflow_id,
            "expression": expression,
            "scope": scope,
            "payload": _plain(payload or {}, "the payload of a filter"),
        }
        return as_model(V1Filter, self._client.rest.call("POST", self._path(), body=body), self._path())

    aio_create = in_thread(create)

    def update(self, filter_id: str, updates: V1UpdateFilterRequest) -> V1Filter:
        """Change what `updates` names. Raises `NotFoundError`, and what `create` raises."""
        path = self._path(filter_id)
        body = updates.model_dump(mode="json", by_alias=True, exclude_none=True)
        return as_model(V1Filter, self._client.rest.call("PATCH", path, body=body), path)

    aio_update = in_thread(update)

    def delete(self, filter_id: str) -> V1Filter:
        """Forget a filter, and return what it was. Raises `NotFoundError`."""
        path = self._path(filter_id)
        return as_model(V1Filter, self._client.rest.call("DELETE", path), path)

    aio_delete = in_thread(delete)

    def _path(self, filter_id: str = "") -> str:
        path = f"/api/v1/stable/tenants/{self._client.tenant_id}/filters"
        return f"{path}/{filter_id}" if filter_id else path


class CELClient:
    """Tries expressions of event filters."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def debug(
        self,
        expression: str,
        input: Mapping[str, Any],  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any] | None = None,
        filter_payload: Mapping[str, Any] | None = None,
    ) -> CELEvaluationResult:
        """What an expression gives for an event with this payload (`input`) and metadata, and a filter with this payload.

        What is wrong with the expression is told in the result; nothing is raised for it.
        """
        path = f"/api/v1/stable/tenants/{self._client.tenant_id}/cel/debug"
        body = {
            "expression": expression,
            "input": _plain(input, "the input of an expression"),
            "additionalMetadata": _plain(additional_metadata or {}, "the metadata of an expression"),
            "filterPayload": _plain(filter_payload or {}, "the payload of an expression"),
        }
        found = self._client.rest.call("POST", path, body=body)
        if found["status"] == "SUCCESS":
            return CELEvaluationResult(result=CELSuccess(output=found["output"]))
        return CELEvaluationResult(result=CELFailure(error=found["error"]))

    aio_debug = in_thread(debug)


def _plain(value: Mapping[str, Any], what: str) -> Any:
    """The value as JSON has it. Raises `InvalidInputError`."""
    return json.loads(dump(value, what, InvalidInputError))
