"""People before the REST routes: sessions, roles, forged requests, payloads that a member may not view. Store and engine are fakes."""

import pytest

from broadaxe_storage.records import TaskRunState
from tests.factories import make_task_run, new_id
from tests.gateway.people import headers_of, join, sign_in
from tests.gateway.rest.fakes import NOW, OTHER_TENANT, TENANT, Rest, T

RUNS = f"{T}/workflow-runs"
LISTING = {"since": "2026-01-01T00:00:00Z", "only_tasks": "false"}
CANCEL = f"{T}/tasks/cancel"
SELECTION = {"externalIds": [new_id()]}


async def person_of(rest: Rest, role: str, tenant_id: str = TENANT, **fields):
    """The headers of somebody who is signed in, in place of the token."""
    del rest.client.headers["Authorization"]
    user = await join(rest.people, tenant_id, role, **fields)
    headers = headers_of(rest.people, await sign_in(rest.people, user))
    rest.client.headers.update(headers)
    return user, headers


@pytest.mark.parametrize("role", ["VIEWER", "MEMBER", "ADMIN", "OWNER"])
async def test_who_is_signed_in_reads_by_the_cookie(rest, role):
    await person_of(rest, role)
    assert (await rest.get(RUNS, **LISTING)).status_code == 200


@pytest.mark.parametrize(
    ("role", "status"), [("VIEWER", 401), ("MEMBER", 200), ("ADMIN", 200), ("OWNER", 200)]
)
async def test_a_viewer_changes_nothing(rest, role, status):
    await person_of(rest, role)
    answer = await rest.client.post(CANCEL, json=SELECTION)
    assert answer.status_code == status
    assert bool(rest.engine.asked) is (status == 200)
    if status == 401:
        assert answer.json() == {"message": "you are VIEWER in this tenant, and this needs MEMBER"}


async def test_other_tenants_and_unknown_ones_look_alike(rest):
    await person_of(rest, "OWNER", OTHER_TENANT)
    answers = [
        await rest.get(f"/api/v1/stable/tenants/{tenant}/workflow-runs", **LISTING)
        for tenant in (TENANT, new_id())
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(
    "changed",
    [
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x" * 43},
        {"X-CSRF-Token": "\u00fc".encode()},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://test.evil.example"},
        {"Origin": "http://[::"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_forged_request_changes_nothing(rest, changed):
    await person_of(rest, "OWNER")
    answer = await rest.client.post(CANCEL, json=SELECTION, headers=changed)
    assert answer.status_code == 403
    assert set(answer.json()) == {"message"}
    assert not rest.engine.asked
    # Reading needs no proof: a page of another site cannot see the answer.
    assert (await rest.client.get(RUNS, params=LISTING, headers={"X-CSRF-Token": ""})).status_code == 200


async def test_the_proof_is_that_of_the_session(rest):
    user, _ = await person_of(rest, "OWNER")
    other = headers_of(rest.people, await sign_in(rest.people, user))
    answer = await rest.client.post(CANCEL, json=SELECTION, headers={"X-CSRF-Token": other["X-CSRF-Token"]})
    assert answer.status_code == 403
    assert not rest.engine.asked


@pytest.mark.parametrize("origin", ["http://test", "https://test", None])
async def test_an_own_page_or_no_browser_may(rest, origin):
    await person_of(rest, "OWNER")
    del rest.client.headers["Origin"], rest.client.headers["Sec-Fetch-Site"]
    headers = {} if origin is None else {"Origin": origin}
    assert (await rest.client.post(CANCEL, json=SELECTION, headers=headers)).status_code == 200


async def test_a_cookie_that_was_tampered_with_is_nobodys(rest):
    _, headers = await person_of(rest, "OWNER")
    good = headers["Cookie"].partition("; ")[0].partition("=")[2]
    token, _, signature = good.partition(".")
    flipped = ("A" if token[0] != "A" else "B") + token[1:]
    for bad in (f"{flipped}.{signature}", f"{token}.{token}", token, "", "x" * 87, good[:-1], good + "x"):
        answer = await rest.client.get(RUNS, params=LISTING, headers={"Cookie": f"hatchet={bad}"})
        assert answer.status_code == 403, bad
    assert (await rest.client.get(RUNS, params=LISTING)).status_code == 200


async def test_a_wrong_token_is_not_made_good_by_a_cookie(rest):
    await person_of(rest, "OWNER")
    answer = await rest.client.get(RUNS, params=LISTING, headers={"Authorization": "Bearer bad"})
    assert answer.status_code == 403
    assert (
        await rest.client.get(RUNS, params=LISTING, headers={"Authorization": "Bearer foreign"})
    ).status_code == 403


async def test_an_ended_session_is_over_at_once(rest):
    user, _ = await person_of(rest, "OWNER")
    person = await sign_in(rest.people, user)
    rest.client.headers.update(headers_of(rest.people, person))
    assert (await rest.get(RUNS, **LISTING)).status_code == 200
    await rest.people.sessions.end(person)
    assert (await rest.get(RUNS, **LISTING)).status_code == 403


async def test_who_is_no_member_any_more_sees_nothing(rest):
    user, _ = await person_of(rest, "MEMBER")
    owner = await join(rest.people, TENANT, "OWNER")
    store = rest.people.store
    member = await store.fetch_member(TENANT, user.id)
    assert await store.delete_member(member, await store.fetch_member(TENANT, owner.id))
    assert (await rest.get(RUNS, **LISTING)).status_code == 403


async def test_an_address_that_is_not_verified_opens_nothing(rest):
    user, _ = await person_of(rest, "OWNER")
    users = rest.people.store.disk.users
    users[user.id] = user._replace(is_email_verified=False)
    answer = await rest.get(RUNS, **LISTING)
    assert answer.status_code == 401
    assert "SERVER_AUTH_SET_EMAIL_VERIFIED" in answer.json()["message"]
    assert (await rest.get(f"/api/v1/stable/tasks/{new_id()}")).status_code == 401


# ---------------------------------------------------------------- resources without a tenant in their path


def remembered(rest, **fields):
    """A run that the fake record shows and the store of people knows the tenant of."""
    run = rest.record.add(rest.record.lone, created_at=NOW, **fields)
    rest.people.store.disk.live[run.id] = make_task_run(id=run.id, tenant_id=TENANT)
    return run


async def test_the_tenant_is_told_from_the_resource(rest):
    run = remembered(rest)
    await person_of(rest, "VIEWER", OTHER_TENANT)
    path = f"/api/v1/stable/workflow-runs/{run.id}"
    foreign = await rest.get(path)
    unknown = await rest.get(f"/api/v1/stable/workflow-runs/{(other := new_id())}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(run.id, "") == unknown.text.replace(other, "")
    viewer = await join(rest.people, TENANT, "VIEWER")
    rest.client.headers.update(headers_of(rest.people, await sign_in(rest.people, viewer)))
    assert (await rest.get(path)).status_code == 200
    assert (await rest.get("/api/v1/stable/workflow-runs/no-id")).status_code == 400


# ---------------------------------------------------------------- payloads


async def test_payloads_are_kept_from_who_may_not_view_them(rest):
    run = remembered(rest, state=TaskRunState.COMPLETED, output=b'{"secret": 2}', finished_at=NOW)
    paths = (f"/api/v1/stable/workflow-runs/{run.id}", f"/api/v1/stable/tasks/{run.id}")
    listing = LISTING | {"include_payloads": "true", "since": "2020-01-01T00:00:00Z"}
    plain = [(await rest.get(path)).json() for path in paths]
    assert plain[1]["output"] == {"secret": 2}
    assert "payloadsRestricted" not in plain[1]
    await person_of(rest, "MEMBER", can_view_payloads=False)
    details, task = [(await rest.get(path)).json() for path in paths]
    (row,) = (await rest.get_json(RUNS, **listing))["rows"]
    for shown in (details["run"], details["tasks"][0], task, row):
        assert (shown["input"], shown["output"], shown["payloadsRestricted"]) == ({}, {}, True)
        assert shown["additionalMetadata"] == {"who": "me"}
    assert "secret" not in str([details, task, row])


@pytest.mark.parametrize(("role", "is_hidden"), [("VIEWER", True), ("ADMIN", False), ("OWNER", False)])
async def test_administrators_see_payloads_in_any_case(rest, role, is_hidden):
    run = remembered(rest, state=TaskRunState.COMPLETED, output=b'{"secret": 2}', finished_at=NOW)
    await person_of(rest, role, can_view_payloads=False)
    shown = await rest.get_json(f"/api/v1/stable/tasks/{run.id}")
    assert shown["output"] == ({} if is_hidden else {"secret": 2})
