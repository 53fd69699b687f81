"""What the tests of the worker share: a worker running in a thread, and waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broadaxe import Worker


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """The worker, running in a thread until the block ends; raises what `start` raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.start()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="worker-under-test")
    thread.start()
    try:
        wait_for(lambda: bool(failures) or worker.id is not None, "the worker to connect")
        if not failures:
            yield worker
    finally:
        if not failures:
            worker.stop(20)
        thread.join(20)
    if failures:
        raise failures[0]


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 10) -> None:
    """Block until `condition()` holds. For state that has no event of its own: looked at every 5 ms."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.005)
