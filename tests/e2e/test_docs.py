"""README and docs are held to what is true: programs run, examples pass the type checker, tables name what the code has.

A page's `python` blocks, joined from top to bottom, are one program. Where a page shows `<!-- output -->`, its program is run for
real: as a worker with the argument `worker`, and then without arguments, when it must print exactly that.
"""

import ast
import os
import re
import subprocess
import textwrap
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import grpc
import pytest

import broadaxe
from broadaxe._config import PREFIXES, ClientConfig, load_settings
from broadaxe._errors import ConfigurationError
from broadaxe.cli import main as command
from broadaxe.wire import dispatcher_pb2, events_pb2, workflows_pb2
from broadaxe.wire.v1 import dispatcher_pb2 as v1_dispatcher_pb2
from broadaxe.wire.v1 import workflows_pb2 as v1_workflows_pb2
from broadaxe_actors.states import TRANSITIONS
from broadaxe_gateway import config as server_config
from broadaxe_gateway.rpc.server import MISSING
from broadaxe_gateway.settings import SettingReader
from tests.processes import PYTHON, REPOSITORY, Process, Server, closing

DOCS = REPOSITORY / "docs"
PAGES = (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))
TOP = (*PAGES, REPOSITORY / "CHANGELOG.md", REPOSITORY / "CONTRIBUTING.md")
OUTPUT = re.compile(r"<!-- output -->\n```text\n(.*?)```", re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def program(page: Path) -> str:
    """The page's Python, joined; empty if it has none."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return "\n\n".join(blocks)


def section(page: Path, title: str) -> str:
    """A page's text below a heading, up to the next heading of the same rank or above."""
    text = page.read_text()
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start, f"{name_of(page)} has no section {title!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


WITH_PROGRAM = [page for page in PAGES if program(page)]


# ---- programs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("docs")) as server:
        yield server.start()


def plain_environment() -> dict[str, str]:
    """The environment without settings of ours."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("BROADAXE_", "HATCHET_"))
    }


def shown_output(page: Path) -> str:
    if page.name == "README.md":
        blocks = re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL)
    else:
        blocks = OUTPUT.findall(page.read_text())
    assert len(blocks) == 1, f"{name_of(page)} shows {len(blocks)} outputs"
    return str(blocks[0])


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name == "README.md" or "<!-- output -->" in page.read_text()],
    ids=name_of,
)
def test_program_of_the_page_prints_what_the_page_shows(page: Path, server: Server, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem.replace('-', '_')}.py"
    script.write_text(program(page))
    # The local profile alone tells where the server is, as on a reader's machine.
    env = {"BROADAXE_HOME": str(server.home)}
    worker = Process(
        [PYTHON, str(script), "worker"],
        name=f"worker of {name_of(page)}",
        directory=tmp_path,
        env=env,
    )
    with closing(worker):
        worker.wait_for_line(r"is connected as")
        done = subprocess.run(
            [PYTHON, str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**plain_environment(), **env},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, shown_output(page), "")
        assert worker.stop() == 0


@pytest.mark.parametrize("page", WITH_PROGRAM, ids=name_of)
def test_examples_of_the_page_can_be_imported_and_their_tests_pass(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    calls = "\n".join(f"{found}()" for found in re.findall(r"^def (test_\w+)", program(page), re.MULTILINE))
    script.write_text(program(page).replace('if __name__ == "__main__":', "if False:") + "\n" + calls)
    done = subprocess.run(
        [PYTHON, "-W", "error", str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_examples_pass_the_type_checker(tmp_path: Path) -> None:
    names = {}
    for page in WITH_PROGRAM:
        module = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
        names[module] = page
        (tmp_path / f"{module}.py").write_text(program(page))
    done = subprocess.run(
        [
            PYTHON,
            "-m",
            "mypy",
            "--config-file",
            str(REPOSITORY / "pyproject.toml"),
            *(str(tmp_path / f"{module}.py") for module in names),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", WITH_PROGRAM, ids=name_of)
def test_examples_are_formatted(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(program(page))
    done = subprocess.run(
        [
            PYTHON,
            "-m",
            "ruff",
            "format",
            "--diff",
            "--config",
            str(REPOSITORY / "pyproject.toml"),
            str(script),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


# ---- links


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as they are made on the usual sites."""
    headings = re.findall(
        r"^#+ (.+)$",
        re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE),
        re.MULTILINE,
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TOP, ids=name_of)
def test_links_of_the_page_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{name_of(page)} links to {target}, which has no such heading"


def test_every_page_is_reached_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (DOCS / "index.md").read_text()))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"} == linked


# ---- reference: configuration


class Recording(dict[str, str]):
    """A mapping that remembers which names were asked for."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        super().__init__(values or {})
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def names_read_by_the_server(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    readers: list[Recording] = []

    class RecordingReader(SettingReader):
        def __init__(self, *sources: tuple[str, Mapping[str, str]]) -> None:
            super().__init__(*sources)
            self._values = Recording(self._values)
            readers.append(self._values)

    monkeypatch.setattr(server_config, "SettingReader", RecordingReader)
    environment = Recording()
    server_config.load_config(environment)
    return environment.asked | readers[0].asked


def names_read_by_the_client() -> set[str]:
    without_token = Recording({"BROADAXE_HOME": "/nobody"})
    with pytest.raises(ConfigurationError):
        load_settings(ClientConfig(), without_token)
    claims = "eyJzdWIiOiJ4IiwiZ3JwY19icm9hZGNhc3RfYWRkcmVzcyI6ImE6MSJ9"  # {"sub":"x","grpc_broadcast_address":"a:1"}
    with_token = Recording({"HATCHET_CLIENT_TOKEN": f"e30.{claims}.x"})
    load_settings(ClientConfig(), with_token)
    return without_token.asked | with_token.asked


def names_in(text: str) -> set[str]:
    prefix = r"(?:SERVER|DATABASE|READ_REPLICA|ADMIN|DEFAULT_TENANT|BROADAXE|HATCHET)"
    return set(re.findall(rf"`({prefix}_[A-Z0-9_]*[A-Z0-9])[`=]", text))


def test_configuration_page_names_what_the_server_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_in(section(DOCS / "reference/configuration.md", "Server")) == names_read_by_the_server(
        monkeypatch
    )


def test_configuration_page_names_what_the_client_reads() -> None:
    read = names_read_by_the_client()
    ours, theirs = PREFIXES
    assert {ours + name.removeprefix(theirs) for name in read if name.startswith(theirs)} == {
        name for name in read if name.startswith(ours)
    }
    told = names_in(section(DOCS / "reference/configuration.md", "Client"))
    assert told == {name for name in read if not name.startswith(theirs)}


@pytest.mark.parametrize("page", TOP, ids=name_of)
def test_page_names_no_setting_that_nobody_reads(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    told = names_in(text) | set(
        re.findall(
            r"^(?:export )?((?:SERVER|DATABASE|READ_REPLICA|BROADAXE|HATCHET)_\w+)=", text, re.MULTILINE
        )
    )
    assert told <= names_read_by_the_server(monkeypatch) | names_read_by_the_client()


# ---- reference: the rest


def test_command_line_page_names_every_command_and_option() -> None:
    page = DOCS / "reference/cli.md"

    def visit(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            if isinstance(found, click.Group):
                yield from visit(found, f"{path} {name}")
            else:
                yield f"{path} {name}", found

    commands = dict(visit(command, "broadaxe"))
    assert re.findall(r"^## (broadaxe .+)$", page.read_text(), re.MULTILINE) == sorted(
        commands,
        key=[
            "broadaxe server start",
            "broadaxe token create",
            "broadaxe token list",
            "broadaxe token revoke",
            "broadaxe tenant retention",
            "broadaxe demo",
        ].index,
    )
    for path, found in commands.items():
        has = {name for param in found.params if isinstance(param, click.Option) for name in param.opts}
        told = set(re.findall(r"^\| `(--[\w-]+)`", section(page, path), re.MULTILINE))
        assert told == has, path


def test_sdk_page_names_the_public_surface() -> None:
    page = DOCS / "reference/sdk.md"
    assert re.findall(r"`(\w+)`", section(page, "All names")) == list(broadaxe.__all__)
    errors = set(re.findall(r"[├└]── (\w+)", section(page, "Errors")))
    assert errors | {"BroadaxeError"} == {
        name
        for name in broadaxe.__all__
        if isinstance(value := getattr(broadaxe, name), type) and issubclass(value, BaseException)
    }


def test_wire_page_names_every_method_and_whether_it_works() -> None:
    rows = dict(
        re.findall(
            r"^\| `(/[\w.]+/\w+)` \| (works|UNIMPLEMENTED) \|$",
            (DOCS / "reference/wire-compatibility.md").read_text(),
            re.MULTILINE,
        )
    )
    methods = {
        f"/{prefix}{service.name}/{method.name}"
        for module, prefix in (
            (dispatcher_pb2, ""),
            (events_pb2, ""),
            (workflows_pb2, ""),
            (v1_dispatcher_pb2, "v1."),
            (v1_workflows_pb2, "v1."),
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert rows == {method: "UNIMPLEMENTED" if method in MISSING else "works" for method in methods}


def test_metrics_page_names_what_the_server_exposes(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:  # calls are counted from the first on
        channel.unary_unary("/Dispatcher/GetVersion")(
            b"", metadata=[("authorization", f"Bearer {server.token}")], timeout=10
        )
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=10) as answer:
        exposed = answer.read().decode()
    declared = dict(re.findall(r"^# TYPE (\S+) (\w+)$", exposed, re.MULTILINE))
    told = set(re.findall(r"`((?:hatchet|broadaxe)_\w+)`", section(DOCS / "reference/metrics.md", "Metrics")))
    assert told == set(declared)


# ---- explanation


def lifecycle_diagram() -> str:
    """The diagram of `TRANSITIONS`: an arrow for each pair of states, with what takes a task run along it."""
    ways: dict[tuple[str, str], list[str]] = {}
    for (before, transition), after in TRANSITIONS.items():
        ways.setdefault((before.name, after.name), []).append(transition.name.lower().replace("_", " "))
    lines = ["stateDiagram-v2", "    [*] --> QUEUED"]
    lines += [f"    {before} --> {after}: {', '.join(names)}" for (before, after), names in ways.items()]
    return "\n".join(lines)


def test_lifecycle_page_shows_the_transitions() -> None:
    shown = re.search(
        r"<!-- from TRANSITIONS -->\n```mermaid\n(.*?)```",
        (DOCS / "explanation/lifecycle.md").read_text(),
        re.DOTALL,
    )
    assert shown
    expected = lifecycle_diagram()
    assert shown[1].rstrip("\n") == expected, f"put this into the page:\n{textwrap.indent(expected, '  ')}"


# ---- troubleshooting


def texts_of_the_source() -> str:
    """Every text in the packages, with `\\0` where a value is filled in."""
    texts: list[str] = []
    for package in ("actors", "gateway", "storage", "sdk"):
        for source in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    texts.append("".join(map(str, parts)))
    return "\n".join(texts)


def test_troubleshooting_quotes_messages_that_exist() -> None:
    said = texts_of_the_source()
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert quoted
    theirs = {"WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED"}  # of gRPC's TLS
    for message in quoted:
        for fragment in re.split(r"\.\.\.", message):
            words = fragment.strip(" ():'")
            assert not words or words in theirs or words in said, f"nothing says {words!r} of {message!r}"
