"""The worker as a process: signals, its heartbeat process, and a task that holds the interpreter lock."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.unit.sdk.fake_engine import COMPLETED, FakeEngine
from tests.unit.sdk.worker_tools import wait_for


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


class Program:
    """The worker program, connected."""

    def __init__(self, engine: FakeEngine) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.sdk.worker_program", engine.address],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.expect("up")
        engine.wait_until(lambda: len(engine.hellos) == 1 and len(engine.workflows) == 2, "the worker", 20)
        engine.wait_until(lambda: engine.heartbeats.total() >= 1, "its first heartbeat", 20)

    def expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def heartbeat(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        assert "_heartbeat.py" in " ".join(child.cmdline())
        return child

    def finish(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def program(engine) -> Iterator[Program]:
    program = Program(engine)
    yield program
    program.finish()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_process_ends_with_0(engine, program, number):
    run_id = engine.trigger("nap", {"seconds": 0.5})
    program.expect("napping")
    beats = program.heartbeat()
    program.process.send_signal(number)
    program.expect("down")
    program.expect("ended")
    assert program.process.wait(10) == 0
    assert engine.runs[run_id].state == COMPLETED
    assert len(engine.goodbyes) == 1
    beats.wait(5)


def test_a_second_signal_ends_the_process_at_once(engine, program):
    engine.trigger("nap", {"seconds": 60})
    program.expect("napping")
    program.process.send_signal(signal.SIGTERM)
    engine.wait_until(lambda: any(up.paused for up in engine.worker_messages), "the pause")
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(5) == 1


def test_heartbeats_go_on_while_a_task_holds_the_interpreter_lock(engine, program):
    run_id = engine.trigger("hog", {"seconds": 9})
    program.expect("hogging")
    before = engine.heartbeats.total()
    engine.wait_until(lambda: engine.heartbeats.total() >= before + 2, "two more heartbeats", 9)
    assert engine.runs[run_id].state is None
    engine.wait_until(lambda: engine.runs[run_id].state is not None, "the end", 20)
    assert engine.runs[run_id].state == COMPLETED
    assert engine.runs[run_id].attempt == 0


def test_a_heartbeat_process_that_dies_is_replaced(engine, program):
    first = program.heartbeat()
    first.kill()
    before = engine.heartbeats.total()
    engine.wait_until(lambda: engine.heartbeats.total() > before, "a heartbeat of the next one", 10)
    assert program.heartbeat().pid != first.pid


def test_the_heartbeat_process_ends_with_its_worker(program):
    beats = program.heartbeat()
    assert "ey" not in " ".join(beats.cmdline())[-60:], "the token must not be in the list of processes"
    program.process.kill()
    beats.wait(10)
    wait_for(lambda: not beats.is_running(), "the heartbeat process to end")
