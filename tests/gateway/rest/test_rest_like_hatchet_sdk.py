"""Every route that the REST client of hatchet-sdk can call is there, or is named here with the reason why it is not."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.gateway.rest import official
from tests.gateway.rest.fakes import TENANT

LEFT_OUT = (
    (r"/api/v1/(tenants/\{\}/)?(sns|slack)\b", "optional: notifications through others' services"),
    (r"/api/v1/users/(google|github|slack)/", "optional: signing in with others' accounts"),
    (r"/api/v1/monitoring/", "optional: a probe that runs a task"),
    (r"/serverless/endpoints", "a feature of the hosted product"),
    (r"/streams/(topics|payloads)", "a feature of the hosted product"),
)


def calls() -> set[tuple[str, str]]:
    """Method and path of every call, parameters left out."""
    spec = find_spec("hatchet_sdk")
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for file in (Path(spec.origin).parent / "clients/rest/api").glob("*_api.py"):
        for method, path in re.findall(r'method="(\w+)",\s*resource_path="([^"]+)"', file.read_text()):
            found.add((method, re.sub(r"\{[^}]*\}", "{}", path)))
    return found


def test_every_call_has_a_route(rest) -> None:
    theirs = calls()
    assert len(theirs) > 140
    ours = set(routes_of(rest.app.routes))
    missing = {
        call for call in theirs - ours if not any(re.search(pattern, call[1]) for pattern, _ in LEFT_OUT)
    }
    assert missing == set()


def routes_of(routes) -> Iterator[tuple[str, str]]:
    for route in routes:
        for method in getattr(route, "methods", None) or ():
            yield method, re.sub(r"\{[^}]*\}", "{}", route.path)
        inner = getattr(route, "original_router", route)
        if inner is not route:
            yield from routes_of(inner.routes)


async def test_entitlements_tell_what_there_is(rest) -> None:
    found = await rest.get_json(f"/api/v1/tenants/{TENANT}/entitlements")
    read = official.TenantEntitlements.from_dict(found)
    assert (read.prometheus_metrics, read.durable_streams, read.audit_logs) == (True, False, False)
