"""The worker's side of its heartbeat process: starts it, starts it again when it dies, and knows whether beats arrive."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger("broadaxe.worker")

PROGRAM = Path(__file__).with_name("_heartbeat.py")
RESTART_S = 1.0
STOP_S = 3.0


class HeartbeatProcess:
    """A process that heartbeats for one worker, kept alive until `stop`. Methods are for any thread."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._connection = connection
        self._worker_id = ""
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self.error: str | None = None
        """Why beats do not arrive; None while they do."""

    @property
    def is_alive(self) -> bool:
        """False while a process that died has no successor yet."""
        process = self._process
        return process is None or process.poll() is None

    def beat_for(self, worker_id: str) -> None:
        """Start beating for a worker, or go on with another id."""
        with self._lock:
            if worker_id == self._worker_id or self._stopping.is_set():
                return
            self._worker_id = worker_id
            if self._watcher is not None:
                if self._process is not None:
                    self._tell(self._process, {"worker_id": worker_id})
                return
            self._watcher = threading.Thread(target=self._watch, name="broadaxe-heartbeat", daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """End the process. Waits up to 3 s for it to end by itself."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is not None and process.stdin is not None:
                process.stdin.close()
        if process is not None:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._watcher is not None:
            self._watcher.join(STOP_S)

    def _watch(self) -> None:
        """Run the process again and again, reading what it says."""
        while not self._stopping.is_set():
            try:
                self._run_once()
            except OSError as error:
                self.error = f"the heartbeat process cannot be started: {error}"
            if self._stopping.is_set():
                return
            logger.error("%s; starting it again", self.error or "the heartbeat process ended")
            self._stopping.wait(RESTART_S)

    def _run_once(self) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own program, by our own interpreter
            [sys.executable, "-P", str(PROGRAM)],  # -P: the modules beside it are not for import
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
            # A Ctrl-C at the terminal reaches the whole group, and beats must go on while the worker drains.
            start_new_session=True,
        )
        with self._lock:
            self._process = process
            self._tell(process, {**self._connection, "worker_id": self._worker_id})
            if self._stopping.is_set() and process.stdin is not None:
                process.stdin.close()
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                text = line.strip()
                self.error = None if text == "ok" else text
                if self.error:
                    logger.warning("heartbeat of worker %s: %s", self._worker_id, self.error)
        code = process.wait()
        self.error = f"the heartbeat process ended with {code}"

    def _tell(self, process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it has ended; the watcher starts another, which is told everything
