"""A bare client of the REST API: requests and answers as they travel. May touch nothing of Broadaxe's packages."""

import base64
import json
from typing import Any

import httpx


class Rest:
    """Calls with one token. `get` and `post` expect success and return the JSON; `raw` returns whatever came."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        payload = token.split(".")[1]
        self.tenant = str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])

    def close(self) -> None:
        self._client.close()

    def raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A path with `T/` in front is below the tenant's stable routes, one with `S/` below the stable ones, any other below `/api/v1`."""
        path = path.replace("T/", f"stable/tenants/{self.tenant}/", 1) if path.startswith("T/") else path
        path = path.replace("S/", "stable/", 1) if path.startswith("S/") else path
        return self._client.request(method, f"/api/v1/{path}", **options)

    def get(self, path: str, **params: Any) -> Any:
        return self._ok(self.raw("GET", path, params=params))

    def post(self, path: str, body: Any) -> Any:
        return self._ok(self.raw("POST", path, json=body))

    def patch(self, path: str, body: Any) -> Any:
        return self._ok(self.raw("PATCH", path, json=body))

    def _ok(self, answer: httpx.Response) -> Any:
        assert answer.status_code == 200, (
            f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        )
        return answer.json()
