"""A small REST server in this process: what a test puts into `answers` is answered, in order or for ever, and every call is kept."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

META = {"id": "0196a1b2-0000-7000-8000-000000000001", "createdAt": "2026-01-02T03:04:05.123456789Z"}
META["updatedAt"] = META["createdAt"]
TENANT = "707d0855-80ab-4e1f-a156-f1c4546cbf52"


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


@dataclass
class FakeRest:
    """Start it as a context manager; `url` is then its address.

    answer: called with each call; gives a status and a value to be written as JSON, or bytes as they are.
    """

    answer: Callable[[Call], tuple[int, Any]]
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length) if length else b""
                parts = urlsplit(self.path)
                call = Call(
                    self.command,
                    parts.path,
                    parse_qs(parts.query),
                    json.loads(raw) if raw else None,
                    dict(self.headers),
                )
                fake.calls.append(call)
                status, value = fake.answer(call)
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - names of the standard library

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


def summary(run_id: str = META["id"], **fields: Any) -> dict[str, Any]:
    """A V1TaskSummary as a server writes it, with what it requires and some more."""
    return {
        "metadata": {**META, "id": run_id},
        "createdAt": META["createdAt"],
        "displayName": "job-1",
        "input": {"n": 1},
        "output": {"twice": 2},
        "numSpawnedChildren": 0,
        "status": "COMPLETED",
        "taskExternalId": run_id,
        "taskId": 7,
        "taskInsertedAt": META["createdAt"],
        "tenantId": TENANT,
        "type": "DAG",
        "workflowId": "0196a1b2-0000-7000-8000-00000000000a",
        "workflowRunExternalId": run_id,
        "additionalMetadata": {"team": "a"},
        "somethingNew": True,
        **fields,
    }


def listed(rows: list[Any]) -> dict[str, Any]:
    return {"pagination": {"current_page": 1, "next_page": 2, "num_pages": 1}, "rows": rows}


def details(run_id: str = META["id"]) -> dict[str, Any]:
    """A V1WorkflowRunDetails."""
    return {
        "run": {
            "metadata": {**META, "id": run_id},
            "status": "COMPLETED",
            "startedAt": "0001-01-01T00:00:00Z",
            "tenantId": TENANT,
            "displayName": "job-1",
            "workflowId": "w",
            "output": {"twice": 2},
            "input": {"n": 1},
        },
        "taskEvents": [
            {
                "id": 1,
                "taskId": run_id,
                "timestamp": META["createdAt"],
                "eventType": "FINISHED",
                "message": "",
            },
            {
                "id": 2,
                "taskId": run_id,
                "timestamp": META["createdAt"],
                "eventType": "SOME_DAY",
                "message": "",
            },
        ],
        "shape": [{"taskExternalId": run_id, "stepId": "s", "childrenStepIds": ["t"], "taskName": "job"}],
        "tasks": [summary(run_id, type="TASK")],
    }
