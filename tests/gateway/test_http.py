"""REST, health and metrics through the application: shapes, credentials, refusals. The engine is a fake that records what it is asked."""

import time
import uuid

import httpx
import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import PauseWorker, WorkerInfo
from broadaxe_actors.telemetry import Gauges, Telemetry, WorkerSlots
from broadaxe_gateway.http.health import Readiness, create_health_app, create_starting_app
from broadaxe_gateway.http.metrics import COUNTERS, create_metrics_app
from broadaxe_gateway.http.rest.present_workers import live_worker
from tests.gateway.rest.fakes import Rest

TENANT = "11111111-1111-4111-8111-111111111111"
OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
WORKER = "33333333-3333-4333-8333-333333333333"


def make_worker(**changes) -> WorkerInfo:
    now = time.time_ns() // 1000
    values = {
        "worker_id": WORKER,
        "name": "counter",
        "actions": ("count:count",),
        "slot_config": (("default", 10), ("durable", 5)),
        "used_slots": (("default", 3),),
        "labels": (("memory", 512), ("zone", "eu")),
        "runtime_info": '{"sdk_version":"1.0","language":"GO","os":"linux"}',
        "is_paused": False,
        "is_connected": True,
        "last_heartbeat_at": now,
        "last_session_at": now,
        "created_at": 1_767_323_045_123_456,
        "updated_at": 1_767_323_045_000_000,
        "in_flight": (),
    }
    return WorkerInfo(**{**values, **changes})


class FakeEngine:
    def __init__(self) -> None:
        self.asked = []
        self.worker = make_worker()

    def new_id(self):
        return str(uuid.uuid4())

    async def ask(self, message, tenant_id, *fields):
        self.asked.append((message, tenant_id, *fields))
        worker_id, is_paused = fields
        if tenant_id != TENANT or worker_id != WORKER:
            raise Refused(Code.NOT_FOUND, f"worker {worker_id} does not exist")
        if is_paused is not None:
            self.worker = self.worker._replace(is_paused=is_paused)
        return self.worker


def source_of(telemetry):
    async def source(_tenant_id=None):
        return telemetry

    return source


def client_of(app) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def readiness():
    return Readiness()


@pytest.fixture
def telemetry():
    return Telemetry()


@pytest.fixture
async def client(engine, readiness, telemetry):
    parts = {
        "hub": engine,
        "telemetry": source_of(telemetry),
        "gateway_figures": lambda: {
            ("broadaxe_grpc_open_streams", None): 2,
            ("broadaxe_grpc_calls_total", None, ("method", "/Dispatcher/Listen"), ("code", "OK")): 5,
        },
        "readiness": readiness,
    }
    app = Rest(parts, SERVER_GRPC_MAX_MSG_SIZE="16384").app
    async with client_of(app) as client:
        client.headers["Authorization"] = "Bearer good"
        yield client


async def test_worker_has_the_documented_shape(client):
    answer = await client.get(f"/api/v1/workers/{WORKER}")
    assert answer.status_code == 200
    body = answer.json()
    assert body["metadata"] == {
        "id": WORKER,
        "createdAt": "2026-01-02T03:04:05.123456Z",
        "updatedAt": "2026-01-02T03:04:05.000000Z",
    }
    assert body["name"] == "counter"
    assert body["type"] == "SELFHOSTED"
    assert body["status"] == "ACTIVE"
    assert body["actions"] == ["count:count"]
    assert body["slotConfig"] == {
        "default": {"limit": 10, "available": 7},
        "durable": {"limit": 5, "available": 5},
    }
    assert [(label["key"], label["value"]) for label in body["labels"]] == [("memory", "512"), ("zone", "eu")]
    assert body["runtimeInfo"] == {
        "sdkVersion": "1.0",
        "languageVersion": "",
        "os": "linux",
        "runtimeExtra": "",
        "language": "GOLANG",
    }


async def test_patch_pauses_and_resumes(client, engine):
    paused = await client.patch(f"/api/v1/workers/{WORKER}", json={"isPaused": True})
    resumed = await client.patch(f"/api/v1/workers/{WORKER}", json={"isPaused": False})
    assert (paused.json()["status"], resumed.json()["status"]) == ("PAUSED", "ACTIVE")
    assert engine.asked == [
        (PauseWorker, TENANT, WORKER, True),
        (PauseWorker, TENANT, WORKER, False),
    ]


def test_inactive_wins_over_paused():
    info = make_worker(is_paused=True, last_heartbeat_at=1_000_000)
    assert live_worker(info, 6_000_000).status == "PAUSED"
    assert live_worker(info, 6_000_001).status == "INACTIVE"
    never = live_worker(info._replace(last_heartbeat_at=None), 0)
    assert never.status == "INACTIVE"
    assert never.last_heartbeat_at is None


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer bad", "Basic good", "good"])
async def test_wrong_credentials_are_403_with_one_message(client, engine, header):
    answer = await client.get(f"/api/v1/workers/{WORKER}", headers={"Authorization": header})
    assert answer.status_code == 403
    assert set(answer.json()) == {"message"}
    assert engine.asked == []


async def test_worker_of_another_tenant_looks_like_none(client):
    foreign = await client.get(f"/api/v1/workers/{WORKER}", headers={"Authorization": "Bearer foreign"})
    unknown = await client.get(f"/api/v1/workers/{uuid.uuid4()}", headers={"Authorization": "Bearer foreign"})
    assert foreign.status_code == unknown.status_code == 404
    assert set(foreign.json()) == {"errors"}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"isPaused": "yes"}', b'{"isPaused": 1}', b""])
async def test_malformed_body_is_400_and_changes_nothing(client, engine, body):
    answer = await client.patch(
        f"/api/v1/workers/{WORKER}", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}
    assert engine.asked == []


async def test_id_that_is_no_uuid_is_400(client):
    assert (await client.get("/api/v1/workers/none")).status_code == 400


async def test_too_large_body_is_413_announced_or_not(client, engine):
    async def chunks():
        for _ in range(5):
            yield b" " * 8192

    path = f"/api/v1/workers/{WORKER}"
    announced = await client.patch(path, content=b" " * 20_000)
    streamed = await client.patch(path, content=chunks())
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert "16384 bytes" in announced.json()["message"]
    assert engine.asked == []


async def test_unknown_path_is_named(client):
    answer = await client.get(f"/api/v1/tenants/{TENANT}/workers")
    assert answer.status_code == 404
    (error,) = answer.json()["errors"]
    assert f"GET /api/v1/tenants/{TENANT}/workers" in error["description"]


async def test_wrong_method_says_which_are_allowed(client):
    answer = await client.delete(f"/api/v1/workers/{WORKER}")
    assert answer.status_code == 405
    assert "DELETE" in answer.json()["errors"][0]["description"]


async def test_unexpected_error_tells_nothing(client, engine):
    async def fail(*_):
        raise ValueError("secret detail")

    engine.ask = fail
    answer = await client.get(f"/api/v1/workers/{WORKER}")
    assert answer.status_code == 500
    assert answer.json() == {"message": "Internal Server Error"}


async def test_engine_that_stops_is_503(client, engine):
    async def closed(*_):
        raise Refused(Code.UNAVAILABLE, "the server is shutting down: try again")

    engine.ask = closed
    assert (await client.get(f"/api/v1/workers/{WORKER}")).status_code == 503


async def test_version_and_metadata_need_no_token(client):
    del client.headers["Authorization"]
    assert (await client.get("/api/v1/version")).json() == {"version": "v0.79.0"}
    assert (await client.get("/api/v1/cloud/metadata")).json() == {"errors": [{"description": "oss"}]}


@pytest.mark.parametrize("make", [create_health_app, create_starting_app])
async def test_probes_follow_readiness(make):
    readiness = Readiness()
    readiness.problem = "recovering"
    async with client_of(make(readiness)) as client:
        before = {
            path: (await client.get(path)).status_code
            for path in ("/live", "/ready", "/health", "/api/live", "/api/ready")
        }
        assert before == {"/live": 200, "/ready": 503, "/health": 200, "/api/live": 200, "/api/ready": 500}
        assert (await client.get("/health")).json() == {
            "status": "ok",
            "ready": False,
            "detail": "recovering",
        }
        readiness.problem = None
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/api/ready")).status_code == 200


async def test_starting_server_answers_503_to_all_else():
    async with client_of(create_starting_app(Readiness())) as client:
        answer = await client.patch(f"/api/v1/workers/{WORKER}", json={"isPaused": True})
    assert answer.status_code == 503
    assert "starting" in answer.json()["message"]


# ---------------------------------------------------------------- metrics


def series_of(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_counters_are_published_by_tenant_and_in_sum(client, telemetry):
    for tenant, count in ((TENANT, 3), (OTHER_TENANT, 4)):
        telemetry.count("created_tasks", tenant, count)
        telemetry.count("assigned_tasks", tenant, count)
    answer = await client.get("/metrics")
    series = series_of(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert series["hatchet_created_tasks_total"] == 7
    assert series["hatchet_assigned_tasks_total"] == 7
    assert series[f'hatchet_tenant_created_tasks_total{{tenant_id="{TENANT}"}}'] == 3
    assert series[f'hatchet_tenant_assigned_tasks{{tenant_id="{OTHER_TENANT}"}}'] == 4
    assert series["broadaxe_grpc_open_streams"] == 2
    assert series['broadaxe_grpc_calls_total{code="OK",method="/Dispatcher/Listen"}'] == 5
    for counted in COUNTERS:
        assert f"hatchet_{counted.name}_total" in series


async def test_histograms_are_cumulative(telemetry):
    for seconds in (0.001, 0.02, 1000.0):
        telemetry.observe_queue(TENANT, "count", seconds)
    telemetry.observe_queue(TENANT, "other", 0.001)
    telemetry.observe_queue(OTHER_TENANT, "count", 0.001)
    telemetry.observe_duration(TENANT, "count", "COMPLETED", 7.0)
    async with client_of(create_metrics_app(source_of(telemetry), dict, "/custom")) as client:
        series = series_of((await client.get("/custom")).text)
    name = "hatchet_tenant_queued_to_assigned_time_seconds"
    assert series[f'{name}_bucket{{le="+Inf",tenant_id="{TENANT}"}}'] == 4
    assert series[f'{name}_bucket{{le="0.01",tenant_id="{TENANT}"}}'] == 2
    assert series[f'{name}_count{{tenant_id="{TENANT}"}}'] == 4
    assert series[f'{name}_sum{{tenant_id="{TENANT}"}}'] == pytest.approx(1000.022)
    assert series["hatchet_queued_to_assigned_seconds_count"] == 5
    assert series["hatchet_queued_to_assigned_time_seconds_count"] == 5
    by_workflow = f'tenant_id="{TENANT}",workflow_name="count"'
    assert series[f"{name}_by_workflow_count{{{by_workflow}}}"] == 3
    assert series[f"hatchet_tenant_queued_to_assigned_by_workflow{{{by_workflow}}}"] == 3
    duration = "hatchet_tenant_workflow_duration_milliseconds"
    labels = f'status="COMPLETED",tenant_id="{TENANT}",workflow_name="count"'
    assert series[f"{duration}_count{{{labels}}}"] == 1


async def test_gauges_tell_slots_and_queues_by_their_labels(client, telemetry):
    telemetry.gauges[TENANT] = Gauges(
        workers=(WorkerSlots("w-1", "big", 10, 4), WorkerSlots("w-2", "over", 1, 2)),
        label_slots=(("gpu", "a100", "default", 10, 4),),
        queues=(("w:t", "w", 7),),
        queued_metadata=(("w:t", "team", "a", 3),),
    )
    series = series_of((await client.get("/metrics")).text)
    tenant = f'tenant_id="{TENANT}"'
    worker = f'{tenant},worker_id="w-1",worker_name="big"'
    label = f'label_key="gpu",label_value="a100",slot_type="default",{tenant}'
    for state, value in (("", 10), ("used_", 4), ("available_", 6)):
        assert series[f"hatchet_tenant_{state}worker_slots{{{worker}}}"] == value
        assert series[f"hatchet_tenant_{state}worker_label_slots{{{label}}}"] == value
    over = f'{tenant},worker_id="w-2",worker_name="over"'
    assert series[f"hatchet_tenant_available_worker_slots{{{over}}}"] == 0
    assert series[f'hatchet_tenant_queue_size{{queue="w:t",{tenant},workflow_name="w"}}'] == 7
    metadata = f'key="team",queue="w:t",{tenant},value="a"'
    assert series[f"hatchet_tenant_additional_metadata_queue_size{{{metadata}}}"] == 3


async def test_engine_series_have_both_documented_names(client, telemetry):
    telemetry.count("assigned_tasks", TENANT, 3)
    series = series_of((await client.get("/metrics")).text)
    for name in ("assigned_tasks", "scheduling_timed_out", "rate_limited", "queued_to_assigned"):
        assert series[f"hatchet_{name}"] == series[f"hatchet_{name}_total"]
