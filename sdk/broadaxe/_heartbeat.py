"""The heartbeats of a worker, sent by a process of their own: a task that holds the interpreter lock cannot stop them.

`python -m broadaxe._heartbeat` reads lines of JSON from standard input: the first says how to connect (with the token, which
is thus in no list of processes), each later one the worker id to beat for. Standard input ending means that the
parent is gone: the process ends. It writes a line a change of state to standard output: `ok`, or the error.

`HeartbeatProcess` is the parent's side: it starts the process, starts it again when it dies, and knows whether beats arrive.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

import grpc

from broadaxe.wire.dispatcher_pb2 import HeartbeatRequest, HeartbeatResponse

logger = logging.getLogger("broadaxe.worker")

PATH = "/Dispatcher/Heartbeat"
INTERVAL_S = 4.0
"""The engine gives no new work to a worker that was silent for longer, and takes its work away after 30 s."""
TIMEOUT_S = 5.0
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
        """Whether the process runs (or has not been asked to yet)."""
        process = self._process
        return self._watcher is None or (process is not None and process.poll() is None)

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
        process = subprocess.Popen(
            [sys.executable, "-m", "broadaxe._heartbeat"],
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


class _Beats:
    """The child's side: one beat every 4 s until standard input ends."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._metadata = (("authorization", f"bearer {connection['token']}"),)
        self._channel = _channel(connection)
        self._beat = self._channel.unary_unary(
            PATH,
            request_serializer=HeartbeatRequest.SerializeToString,
            response_deserializer=HeartbeatResponse.FromString,
        )
        self.worker_id: str = connection["worker_id"]
        self.ended = threading.Event()
        self._said = ""

    def run(self) -> None:
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                request = HeartbeatRequest(worker_id=self.worker_id)
                request.heartbeat_at.GetCurrentTime()
                self._beat(request, timeout=TIMEOUT_S, metadata=self._metadata)
                self._say("ok")
            except grpc.RpcError as error:
                code = error.code()
                self._say(f"{code.name}: {error.details()}".replace("\n", " "))
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    self.ended.wait()
            self.ended.wait(max(0.0, INTERVAL_S - (time.monotonic() - began)))
        self._channel.close()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            print(text, flush=True)  # noqa: T201 - the parent reads it


def _channel(connection: dict[str, Any]) -> grpc.Channel:
    options = [
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.enable_retries", 0),
    ]
    if connection["strategy"] == "none":
        return grpc.insecure_channel(connection["host_port"], options)
    if connection["server_name"]:
        options.append(("grpc.ssl_target_name_override", connection["server_name"]))
    root, key, cert = (_pem(connection[name]) for name in ("root_ca", "key", "cert"))
    return grpc.secure_channel(
        connection["host_port"], grpc.ssl_channel_credentials(root, key, cert), options
    )


def _pem(text: str | None) -> bytes | None:
    return text.encode() if text else None


def main() -> None:
    """Beat until standard input ends."""
    first = sys.stdin.readline()
    if not first:
        return
    beats = _Beats(json.loads(first))
    thread = threading.Thread(target=beats.run, name="beats", daemon=True)
    thread.start()
    for line in sys.stdin:
        beats.worker_id = json.loads(line)["worker_id"]
    beats.ended.set()
    thread.join(TIMEOUT_S + 1)


if __name__ == "__main__":
    main()
