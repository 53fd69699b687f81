"""A process that calls the feature clients of an unmodified hatchet-sdk: `hatchet_features.py`. They speak REST.

Reads one JSON command a line: `{"do": "runs.list", "with": {...arguments}}`; answers each by one line that opens with `@@ `: the value as
JSON under `value`, or what was raised under `raised` and `text`. Some arguments are times or durations; see `arguments`. `workflow.METHOD`
is a method of the workflow that the argument `workflow` names.
"""

import json
import sys
import traceback
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hatchet_sdk import Hatchet, RateLimitDuration
from hatchet_sdk.clients.rest.models.update_worker_request import UpdateWorkerRequest
from hatchet_sdk.clients.rest.models.v1_webhook_api_key_auth import V1WebhookAPIKeyAuth
from hatchet_sdk.clients.rest.models.v1_webhook_basic_auth import V1WebhookBasicAuth
from hatchet_sdk.clients.rest.models.v1_webhook_hmac_auth import V1WebhookHMACAuth
from hatchet_sdk.features.runs import BulkCancelReplayOpts, RunFilter

TIMES = {"since", "until", "trigger_at", "run_at"}
WEBHOOK_AUTHS: dict[str, Any] = {
    "basic": V1WebhookBasicAuth,
    "api_key": V1WebhookAPIKeyAuth,
    "hmac": V1WebhookHMACAuth,
}


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in TIMES:
            found[name] = datetime.fromisoformat(value)
        elif name == "updates":
            found[name] = [(item, datetime.fromisoformat(at)) for item, at in value]
        elif name == "queue_ttl":
            found[name] = timedelta(seconds=value)
        elif name == "bulk":
            filters = value.get("filters")
            found["opts"] = BulkCancelReplayOpts(
                ids=value.get("ids"), filters=RunFilter(**arguments(filters)) if filters else None
            )
        elif name == "duration":
            found[name] = RateLimitDuration(value)
        elif name == "worker":
            found["opts"] = UpdateWorkerRequest(**value)
        elif name == "auth":
            ((kind, fields),) = value.items()
            found[name] = WEBHOOK_AUTHS[kind].from_dict(fields)
        else:
            found[name] = value
    return found


def plain(value: Any) -> Any:
    """A value as JSON: models by their wire names."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def answer(hatchet: Hatchet, line: str) -> dict[str, Any]:
    command = json.loads(line)
    feature, method = command["do"].split(".")
    given = arguments(command.get("with", {}))
    if feature == "workflow":
        # A method of a workflow that is declared here by its name alone.
        call = getattr(hatchet.workflow(name=given.pop("workflow")), method)
    else:
        # One of them has no public way to it in this release.
        owner = hatchet if hasattr(hatchet, feature) else hatchet._client
        call = getattr(getattr(owner, feature), method)
    try:
        return {"value": plain(call(**given))}
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error)}


def main() -> None:
    hatchet = Hatchet()
    print("@@ " + json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            text = json.dumps(answer(hatchet, line))
        except Exception:
            text = json.dumps({"error": traceback.format_exc()})
        print("@@ " + text, flush=True)


if __name__ == "__main__":
    main()
