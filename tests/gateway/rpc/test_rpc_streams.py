"""Streams in trouble: full, given up, oversized, late, out of order; and reports whose commit waits."""

import asyncio

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import stream_pb2 as s
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.limits import GrpcLimits
from broadaxe_gateway.rpc.outlet import OpenStreams, Outlet
from broadaxe_gateway.rpc.reports import ReportDesk
from broadaxe_storage.records import TaskRunState
from tests.gateway.rpc.fakes import (
    NO_ANSWER,
    STEP,
    TENANT,
    FakeEngine,
    make_assignment,
    new_id,
    refusal,
    running_gateway,
)

WORKER = "/broadaxe.v1.Engine/WorkerStream"
CLIENT = "/broadaxe.v1.Engine/ClientStream"
RUNS = "/Dispatcher/SubscribeToWorkflowRuns"
EVENTS = "/Dispatcher/SubscribeToWorkflowEvents"


@pytest.fixture
async def gateway():
    async with running_gateway() as running:
        yield running


async def drain(stream):
    while await stream.read() is not grpc.aio.EOF:
        pass


async def status_of(stream):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await drain(stream)
    return error.value.code()


async def listen(gateway, path="/Dispatcher/ListenV2"):
    stream = gateway.server_stream(path, d.WorkerListenRequest(worker_id=new_id()), d.AssignedAction)
    await stream.initial_metadata()
    return stream


async def work(gateway, **hello):
    stream = gateway.both_stream(WORKER, s.WorkerDown)
    await stream.write(s.WorkerUp(hello=s.Hello(**({"worker_name": "w", "actions": ["f:s"]} | hello))))
    assert (await stream.read()).HasField("welcome")
    return stream


def finished(run_id, output=b"1"):
    done = TaskRunState.COMPLETED
    return m.RunFinished(TENANT, run_id, done, (m.TaskResult(run_id, "s", done, output, None),))


# ---------------------------------------------------------------- worker streams


async def test_session_that_the_engine_gives_up_ends_with_unavailable(gateway):
    stream = await listen(gateway)
    gateway.engine.push(m.EndSession(gateway.engine.session_id))
    assert await status_of(stream) is grpc.StatusCode.UNAVAILABLE


async def test_legacy_listen_stands_for_heartbeats(gateway):
    stream = await listen(gateway, "/Dispatcher/Listen")
    assert gateway.engine.sessions[-1].sends_heartbeats is False
    stream.cancel()
    stream = await listen(gateway)
    assert gateway.engine.sessions[-1].sends_heartbeats is True
    stream.cancel()


async def test_two_sessions_of_one_worker_are_told_apart(gateway):
    first, second = await listen(gateway), await listen(gateway)
    one, two = (session.session_id for session in gateway.engine.sessions)
    start = make_assignment()
    gateway.engine.push(m.StartTasks(two, (start,)))
    assert (await second.read()).task_run_external_id == start.task_run_id
    first.cancel()
    (closed,) = await gateway.engine.seen(m.CloseSession)
    assert closed.session_id == one
    second.cancel()


async def test_start_beyond_the_message_limit_fails_the_task_with_sizes():
    async with running_gateway(limits=GrpcLimits(max_message_bytes=64 * 1024)) as gateway:
        stream = await listen(gateway)
        big = make_assignment(input=b'{"a":"' + b"x" * 70_000 + b'"}')
        small = make_assignment()
        gateway.engine.push(m.StartTasks(gateway.engine.session_id, (big, small)))
        assert (await stream.read()).task_run_external_id == small.task_run_id
        (report,) = gateway.engine.of(m.ReportTasks)[0].reports
        assert (report.task_run_id, report.kind) == (big.task_run_id, m.ReportKind.FAILED)
        assert report.should_not_retry
        assert b"input 70,008" in report.payload
        stream.cancel()

        stream = await work(gateway)
        gateway.engine.push(m.StartTasks(gateway.engine.session_id, (big, small)))
        down = await stream.read()
        while not down.assignments:
            down = await stream.read()
        assert [start.task_run_id for start in down.assignments] == [small.task_run_id]
        assert len(await gateway.engine.seen(m.ReportTasks, 2)) == 2
        stream.cancel()


async def test_worker_that_does_not_read_is_given_nothing_more_until_it_does():
    limits = GrpcLimits(worker_backlog=10)
    async with running_gateway(limits=limits) as gateway:
        stream = await work(gateway)
        session = gateway.engine.session_id
        gateway.engine.push(m.StartTasks(session, tuple(make_assignment() for _ in range(11))))
        (full,) = await gateway.engine.seen(m.SessionFull)
        assert (full.session_id, full.is_full) == (session, True)
        down = await stream.read()
        assert len(down.assignments) == 11
        await stream.write(s.WorkerUp(received_batch=down.batch))
        _, empty = await gateway.engine.seen(m.SessionFull, 2)
        assert empty.is_full is False
        stream.cancel()


async def test_returning_worker_keeps_its_id_and_says_what_it_holds(gateway):
    worker_id, task_run_id = new_id(), new_id()
    stream = await work(
        gateway,
        worker_id=worker_id,
        in_flight=[s.HeldAttempt(task_run_id=task_run_id, attempt=2)],
    )
    assert gateway.engine.of(m.RegisterWorker) == []
    (opened,) = gateway.engine.sessions
    assert opened.worker_id == worker_id
    assert opened.in_flight == (m.HeldAttempt(task_run_id, 2),)
    assert opened.is_batched
    stream.cancel()


async def test_worker_stream_without_hello_is_refused(gateway):
    stream = gateway.both_stream(WORKER, s.WorkerDown)
    await stream.write(s.WorkerUp(heartbeat=True))
    assert await status_of(stream) is grpc.StatusCode.INVALID_ARGUMENT


async def test_cancels_labels_and_pause_pass(gateway):
    stream = await work(gateway)
    start = make_assignment()
    order = m.CancelOrder(STEP, start.run_id, start.task_run_id, 4, "{}", 1)
    gateway.engine.push(m.CancelTasks(gateway.engine.session_id, (order,)))
    (cancel,) = (await stream.read()).cancels
    assert (cancel.task_run_id, cancel.attempt) == (start.task_run_id, 4)
    await stream.write(s.WorkerUp(paused=True, upsert_labels={"a": d.WorkerLabels(int_value=1)}))
    (pause,) = await gateway.engine.seen(m.PauseWorker)
    (labels,) = await gateway.engine.seen(m.UpsertLabels)
    assert pause.is_paused is True
    assert labels.labels == (("a", 1),)
    stream.cancel()


async def test_report_that_the_engine_refuses_for_good_does_not_hold_up_others(gateway, caplog):
    bad, good = new_id(), new_id()

    def answer(request):
        if any(report.task_run_id == bad for report in request.reports):
            return refusal(Code.INTERNAL, "bad bytes")
        return m.ReportsTaken((True,) * len(request.reports))

    gateway.engine.answers[m.ReportTasks] = answer
    stream = await work(gateway)
    kind = s.REPORT_KIND_COMPLETED
    await stream.write(
        s.WorkerUp(report_batch=1, reports=[s.TaskReport(task_run_id=run, kind=kind) for run in (bad, good)])
    )
    assert (await stream.read()).committed_report_batch == 1
    committed = [q.reports[0].task_run_id for q in gateway.engine.of(m.ReportTasks) if len(q.reports) == 1]
    assert sorted(committed) == sorted([bad, good])
    assert bad in caplog.text
    stream.cancel()


async def test_goodbye_waits_for_the_commit_of_reports(gateway):
    held: list[m.ReportTasks] = []
    gateway.engine.answers[m.ReportTasks] = lambda q: held.append(q) or NO_ANSWER
    stream = await work(gateway)
    report = s.TaskReport(task_run_id=new_id(), kind=s.REPORT_KIND_FAILED, payload=b"E: x")
    await stream.write(s.WorkerUp(report_batch=1, reports=[report], goodbye=True))
    await gateway.engine.seen(m.ReportTasks)
    assert gateway.engine.of(m.StopWorker) == []
    gateway.engine.push(m.Reply(held[0].request_id, m.ReportsTaken((True,))))
    assert (await stream.read()).committed_report_batch == 1
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert len(gateway.engine.of(m.StopWorker)) == 1


# ---------------------------------------------------------------- reports


async def test_report_is_held_while_the_engine_is_away_and_never_unavailable(gateway):
    answers = [refusal(Code.UNAVAILABLE, "rebuilding"), m.ReportsTaken((True,))]
    gateway.engine.answers[m.ReportTasks] = lambda q: answers.pop(0)
    await gateway.unary("/Dispatcher/SendStepActionEvent", d.ActionEventResponse)(
        d.StepActionEvent(task_run_external_id=new_id(), event_type=d.STEP_EVENT_TYPE_COMPLETED)
    )
    assert len(gateway.engine.of(m.ReportTasks)) == 2


async def test_report_that_cannot_be_kept_is_refused_as_exhausted():
    engine = FakeEngine()
    engine.answers[m.ReportTasks] = lambda q: refusal(Code.UNAVAILABLE, "rebuilding")
    desk = ReportDesk(Hub(engine), 1000, patience_seconds=0.05)
    report = m.TaskReport(new_id(), 0, m.ReportKind.COMPLETED)
    with pytest.raises(Refused, match="rebuilding") as error:
        await desk.take(TENANT, "", (report,))
    assert error.value.code is Code.RESOURCE_EXHAUSTED
    assert desk.held_bytes == 0


async def test_reports_beyond_memory_are_refused_and_streams_wait():
    engine = FakeEngine()
    engine.answers[m.ReportTasks] = lambda q: NO_ANSWER
    hub = Hub(engine)
    desk = ReportDesk(hub, 1000)
    report = m.TaskReport(new_id(), 0, m.ReportKind.COMPLETED, b"x" * 2000)
    first = asyncio.create_task(desk.take(TENANT, "", (report,)))
    (asked,) = await engine.seen(m.ReportTasks)
    with pytest.raises(Refused) as error:
        await desk.take(TENANT, "", (report,))
    assert error.value.code is Code.RESOURCE_EXHAUSTED
    waiting = asyncio.create_task(desk.wait_room())
    engine.push(m.Reply(asked.request_id, m.ReportsTaken((True,))))
    await first
    await asyncio.wait_for(waiting, 5)


async def test_batch_of_items_is_reported_at_once(gateway):
    items = [d.BatchActionEventItem(task_run_external_id=new_id(), event_payload="{}") for _ in range(3)]
    send = gateway.unary("/Dispatcher/SendBatchActionEvent", d.ActionEventResponse)
    await send(d.BatchActionEvent(event_type=d.STEP_EVENT_TYPE_COMPLETED, items=items))
    await send(d.BatchActionEvent(event_type=d.STEP_EVENT_TYPE_COMPLETED))
    (request,) = gateway.engine.of(m.ReportTasks)
    assert len(request.reports) == 3


# ---------------------------------------------------------------- results


async def test_run_watched_twice_answers_both_and_is_forgotten(gateway):
    run_id = new_id()
    streams = [gateway.both_stream(RUNS, d.WorkflowRunEvent) for _ in range(2)]
    for stream in streams:
        await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
        await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
    await gateway.engine.seen(m.WatchRuns, 4)
    gateway.engine.push(finished(run_id), finished(run_id))
    for stream in streams:
        assert (await stream.read()).workflow_run_id == run_id
    # Subscribed again, it is answered again.
    await streams[0].write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
    await gateway.engine.seen(m.WatchRuns, 5)
    gateway.engine.push(finished(run_id))
    assert (await streams[0].read()).workflow_run_id == run_id
    for stream in streams:
        stream.cancel()


async def test_run_of_another_tenant_is_not_told(gateway):
    run_id = new_id()
    stream = gateway.both_stream(RUNS, d.WorkflowRunEvent, "other")
    await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
    await gateway.engine.seen(m.WatchRuns)
    gateway.engine.push(finished(run_id))
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_client_that_left_is_watched_for_no_more(gateway):
    run_id = new_id()
    stream = gateway.both_stream(CLIENT, s.ClientDown)
    await stream.write(s.ClientUp(watch_run_ids=[run_id]))
    await gateway.engine.seen(m.WatchRuns)
    stream.cancel()
    (unwatch,) = await gateway.engine.seen(m.UnwatchRuns)
    assert unwatch.run_ids == (run_id,)


@pytest.mark.parametrize(("path", "response"), [(RUNS, d.WorkflowRunEvent), (CLIENT, s.ClientDown)])
async def test_result_stream_that_is_not_read_ends_with_unavailable(path, response):
    limits = GrpcLimits(stream_backlog=100)
    # The smallest flow-control window, so that a client that does not read is felt.
    options = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
    async with running_gateway(limits=limits, channel_options=options) as gateway:
        stream = gateway.both_stream(path, response)
        run_ids = [new_id() for _ in range(500)]
        if path == CLIENT:
            await stream.write(s.ClientUp(watch_run_ids=run_ids))
        else:
            for run_id in run_ids:
                await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
        await gateway.engine.seen(m.WatchRuns, 1 if path == CLIENT else 500)
        gateway.engine.push(*(finished(run_id, b'"' + b"x" * 20_000 + b'"') for run_id in run_ids))
        assert await status_of(stream) is grpc.StatusCode.UNAVAILABLE


async def test_child_that_existed_is_watched_by_the_id_it_has(gateway):
    asked, existing = new_id(), new_id()
    gateway.engine.answers[m.TriggerRuns] = lambda q: (existing,)
    stream = gateway.both_stream(CLIENT, s.ClientDown)
    await stream.write(
        s.ClientUp(
            triggers=[
                s.TriggerRuns(
                    request=1,
                    watch=True,
                    is_repeat=True,
                    runs=[
                        s.NewRun(run_id=asked, workflow_name="f", parent_task_run_id=new_id(), child_index=0)
                    ],
                )
            ]
        )
    )
    (reply,) = (await stream.read()).replies
    assert list(reply.run_ids) == [existing]
    first, second = await gateway.engine.seen(m.WatchRuns, 2)
    assert (first.run_ids, second.run_ids) == ((asked,), (existing,))
    (unwatch,) = await gateway.engine.seen(m.UnwatchRuns)
    assert unwatch.run_ids == (asked,)
    assert gateway.engine.of(m.TriggerRuns)[0].is_repeat
    stream.cancel()


async def test_refused_trigger_is_told_and_watched_no_more(gateway):
    gateway.engine.answers[m.TriggerRuns] = lambda q: refusal(Code.UNAVAILABLE, "rebuilding")
    stream = gateway.both_stream(CLIENT, s.ClientDown)
    run = s.NewRun(run_id=new_id(), workflow_name="f")
    await stream.write(s.ClientUp(triggers=[s.TriggerRuns(request=5, watch=True, runs=[run])]))
    (reply,) = (await stream.read()).replies
    assert (reply.request, reply.refusal.code, reply.refusal.message) == (5, 14, "rebuilding")
    await gateway.engine.seen(m.UnwatchRuns)
    stream.cancel()


async def test_half_closed_client_still_gets_its_answers(gateway):
    held = []
    gateway.engine.answers[m.TriggerRuns] = lambda q: held.append(q) or NO_ANSWER
    stream = gateway.both_stream(CLIENT, s.ClientDown)
    await stream.write(s.ClientUp(triggers=[s.TriggerRuns(request=1, runs=[s.NewRun(workflow_name="f")])]))
    await stream.done_writing()
    await gateway.engine.seen(m.TriggerRuns)
    gateway.engine.push(m.Reply(held[0].request_id, (held[0].runs[0].run_id,)))
    assert len((await stream.read()).replies) == 1
    assert await stream.read() is grpc.aio.EOF


async def test_logs_and_chunks_pass_and_bad_lines_are_dropped_loudly(gateway, caplog):
    task_run_id = new_id()
    stream = gateway.both_stream(CLIENT, s.ClientDown)
    await stream.write(
        s.ClientUp(
            logs=[
                s.LogLine(task_run_id=task_run_id, message="kept", level="INFO", created_at_us=5),
                s.LogLine(task_run_id=task_run_id, message=""),
            ],
            chunks=[s.StreamChunk(task_run_id=task_run_id, message=b"c", index=3)],
        )
    )
    (chunks,) = await gateway.engine.seen(m.PutStream)
    (logs,) = await gateway.engine.seen(m.PutLogs)
    assert [line.message for line in logs.lines] == [b"kept"]
    assert chunks.chunks == (m.NewChunk(task_run_id, 0, 3, b"c"),)
    assert "log line was dropped" in caplog.text
    stream.cancel()


# ---------------------------------------------------------------- events of runs


def run_event(run_id, kind, *, is_run=False, index=None, payload=b""):
    return m.RunEvent(run_id, is_run, run_id, kind, 1_750_000_000_000_000, payload, 0, index)


def follow(gateway, **fields):
    return gateway.server_stream(EVENTS, d.SubscribeToWorkflowEventsRequest(**fields), d.WorkflowEvent)


async def test_events_come_in_order_and_hang_up_at_the_end(gateway):
    run_id = new_id()
    stream = follow(gateway, workflow_run_id=run_id)
    (opened,) = await gateway.engine.seen(m.OpenSubscription)
    kinds = m.RunEventKind
    gateway.engine.push(
        m.RunEvents(
            opened.subscription_id,
            (
                run_event(run_id, kinds.STARTED),
                run_event(run_id, kinds.STREAM, index=1, payload=b"b"),
                run_event(run_id, kinds.STREAM, index=0, payload=b"a"),
                run_event(run_id, kinds.STREAM, index=7, payload=b"z"),
            ),
            False,
        ),
        m.RunEvents(
            opened.subscription_id,
            (
                run_event(run_id, kinds.COMPLETED, payload=b"1"),
                run_event(run_id, kinds.COMPLETED, is_run=True),
            ),
            True,
        ),
    )
    events = [event async for event in stream]
    assert [event.event_payload for event in events] == ["", "a", "b", "z", "1", ""]
    assert [event.hangup for event in events] == [False] * 5 + [True]
    assert events[-1].resource_type == d.RESOURCE_TYPE_WORKFLOW_RUN
    assert events[1].event_index == 0
    assert events[1].HasField("event_index")


async def test_held_chunk_passes_after_its_time(gateway, monkeypatch):
    monkeypatch.setattr("broadaxe_gateway.rpc.reorder.HOLD_SECONDS", 0.05)
    run_id = new_id()
    stream = follow(gateway, workflow_run_id=run_id)
    (opened,) = await gateway.engine.seen(m.OpenSubscription)
    chunk = run_event(run_id, m.RunEventKind.STREAM, index=4, payload=b"late")
    gateway.engine.push(m.RunEvents(opened.subscription_id, (chunk,), False))
    assert (await stream.read()).event_payload == "late"
    stream.cancel()
    await gateway.engine.seen(m.CloseSubscription)


async def test_ended_run_has_no_events(gateway):
    gateway.engine.answers[m.OpenSubscription] = lambda q: False
    stream = follow(gateway, workflow_run_id=new_id())
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_run_that_appears_late_is_followed_and_one_that_does_not_is_not_found(gateway, monkeypatch):
    monkeypatch.setattr("broadaxe_gateway.rpc.services.dispatcher.UNKNOWN_RUN_PAUSE_SECONDS", 0.01)
    answers = [refusal(Code.NOT_FOUND, "workflow run not found")] * 3 + [False]
    gateway.engine.answers[m.OpenSubscription] = lambda q: answers.pop(0)
    stream = follow(gateway, workflow_run_id=new_id())
    assert await stream.read() is grpc.aio.EOF
    answers += [refusal(Code.NOT_FOUND, "workflow run not found")] * 10
    assert await status_of(follow(gateway, workflow_run_id=new_id())) is grpc.StatusCode.NOT_FOUND
    assert answers == []


async def test_runs_of_one_metadata_value_hang_up_with_the_last(gateway):
    stream = follow(gateway, additional_meta_key="k", additional_meta_value="v")
    (opened,) = await gateway.engine.seen(m.OpenSubscription)
    assert (opened.run_id, opened.metadata_key, opened.metadata_value) == (None, "k", "v")
    first, last = new_id(), new_id()
    failed = m.RunEventKind.FAILED
    gateway.engine.push(
        m.RunEvents(opened.subscription_id, (run_event(first, failed, is_run=True),), False),
        m.RunEvents(opened.subscription_id, (run_event(last, failed, is_run=True),), True),
    )
    assert [event.hangup async for event in stream] == [False, True]


@pytest.mark.parametrize("fields", [{}, {"workflow_run_id": "x"}, {"additional_meta_key": "k"}])
async def test_following_nothing_is_refused(gateway, fields):
    assert await status_of(follow(gateway, **fields)) is grpc.StatusCode.INVALID_ARGUMENT


# ---------------------------------------------------------------- parts


async def test_closed_set_of_streams_takes_no_more():
    streams = OpenStreams()
    outlet: Outlet[int] = Outlet()
    streams.add(outlet)
    closing = asyncio.create_task(streams.close())
    with pytest.raises(Refused):
        await outlet.wait()
    streams.discard(outlet)
    await closing
    with pytest.raises(Refused):
        streams.add(Outlet())


async def test_stop_does_not_wait_for_a_client_that_does_not_read(monkeypatch, caplog):
    monkeypatch.setattr("broadaxe_gateway.rpc.outlet.CLOSE_SECONDS", 0.02)
    streams = OpenStreams()
    outlet: Outlet[int] = Outlet()
    outlet.put(1, 10)
    streams.add(outlet)
    await streams.close()
    assert (len(outlet.items), outlet.size) == (0, 0)
    assert "1 streams did not end" in caplog.text


async def test_outlet_that_ended_well_is_read_to_its_end():
    outlet: Outlet[int] = Outlet()
    outlet.put(1)
    outlet.end()
    outlet.put(2)
    assert await outlet.wait()
    assert outlet.items.popleft() == 1
    assert not await outlet.wait()
