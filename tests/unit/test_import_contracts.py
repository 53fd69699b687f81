"""The contracts between packages and between actors hold, and the checks catch what breaks them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import broadaxe_actors
from broadaxe_actors.runtime import Actor, Handle, Runtime
from broadaxe_actors.runtime.testing import assert_no_actor_objects
from tests.unit.actor_contract import breaches

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "broadaxe_actors": "actors",
    "broadaxe_gateway": "gateway",
    "broadaxe_storage": "storage",
    "broadaxe": "sdk",
}


ACTOR = "from .runtime import Actor\nfrom .timekeeper import Timekeeper\nclass Mine(Actor):\n"


def lint_imports(root):
    """Run import-linter as `make lint` does, on the packages below `root`."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", root / "pyproject.toml"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(root / folder) for folder in PACKAGES.values())},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the sources, to break."""
    for package, folder in PACKAGES.items():
        shutil.copytree(
            ROOT / folder / package,
            tmp_path / folder / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyi"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_keep_to_the_contracts():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("broadaxe_actors", "import broadaxe_gateway", "Packages point one way"),
        ("broadaxe_storage", "import broadaxe_actors.errors", "Packages point one way"),
        ("broadaxe", "import broadaxe_storage.records", "The SDK stands alone"),
        ("broadaxe_gateway", "import broadaxe.cli", "The gateway takes only the wire messages"),
    ],
)
def test_a_planted_import_is_caught(copy, package, line, contract):
    (copy / PACKAGES[package] / package / "planted.py").write_text(f'"""Planted."""\n\n{line}\n')
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert len(broken) == 1, done.stdout
    assert broken[0].startswith(contract)


def test_no_actor_holds_another_actors_object():
    assert breaches(Path(broadaxe_actors.__file__).parent) == []


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("from broadaxe_actors.timekeeper import Timekeeper\nheld = Timekeeper()", 2, "creates"),
        ("from broadaxe_actors.timekeeper import Timekeeper as T\nheld = T()", 2, "creates"),
        ("from broadaxe_actors import timekeeper\nheld = timekeeper.Timekeeper()", 2, "creates"),
        ("import broadaxe_actors.timekeeper\nheld = broadaxe_actors.timekeeper.Timekeeper()", 2, "creates"),
        ("from .timekeeper import Timekeeper\nheld = Timekeeper()", 2, "creates"),
        ("from .timekeeper import Timekeeper\nfound = Timekeeper\nheld = found()", 3, "creates"),
        ("from .timekeeper import Timekeeper\nheld = Timekeeper.start()", 2, "by start"),
        ("from .timekeeper import Timekeeper\nheld = object.__new__(Timekeeper)", 2, "object.__new__"),
        (
            "from .runtime import Actor\nclass Mine(Actor):\n    def work(self): self.held = Mine()",
            3,
            "creates",
        ),
        ("from .timekeeper import Timekeeper\nclass Mine(Timekeeper): ...\nheld = Mine()", 3, "creates"),
        ("import pykka\nclass Mine(pykka.ThreadingActor): ...\nMine()", 3, "creates"),
        (f"{ACTOR}    def work(self, keeper: Timekeeper): ...", 4, "declares"),
        (f"{ACTOR}    def work(self, keeper: 'Timekeeper | None'): ...", 4, "declares"),
        (f"{ACTOR}    held: dict[str, Timekeeper]", 4, "declares"),
        ("def work(handle): return handle._inbox.actor", 1, "reaches"),
        ("def work(runtime): return next(runtime.live_actors())", 1, "reaches"),
    ],
)
def test_a_planted_actor_object_is_caught_in_source(copy, source, line, what):
    package = copy / "actors" / "broadaxe_actors"
    (package / "planted.py").write_text(source + "\n")
    found = [each for each in breaches(package) if "planted.py" in each]
    assert len(found) == 1, found
    assert f"planted.py:{line}: " in found[0]
    assert what in found[0]


def test_what_is_allowed_is_not_called_a_breach(copy):
    package = copy / "actors" / "broadaxe_actors"
    (package / "planted.py").write_text(
        "from .runtime import Directory, Handle, Runtime\n"
        "from .timekeeper import Timekeeper\n"
        "class Part:\n"
        "    def __init__(self, whole: 'Whole') -> None:\n"
        "        self.whole = whole\n"
        "class Whole(Timekeeper):\n"
        "    def __init__(self, keeper: Handle[Timekeeper]) -> None:\n"
        "        self.part = Part(self)\n"
        "def work(runtime: Runtime, kind: type[Timekeeper], keeper: Handle[Timekeeper]) -> None:\n"
        "    held: dict[str, Handle[Timekeeper]] = {'a': runtime.spawn(Timekeeper)}\n"
        "    Directory(runtime, lambda key: runtime.spawn(Timekeeper))\n"
    )
    assert breaches(package) == []


class Keeper(Actor):
    def __init__(self, held: object) -> None:
        self.held = held

    def expose(self) -> "Keeper":
        return self


async def test_a_planted_actor_object_is_caught_among_live_actors():
    runtime = Runtime()
    first: Handle[Keeper] = runtime.spawn(Keeper, None)
    second = runtime.spawn(Keeper, {"first": first})
    assert_no_actor_objects(runtime)
    runtime.spawn(Keeper, {"first": [await first.expose.remote()]})
    with pytest.raises(AssertionError, match=r"Keeper\.held\['first'\]\[0\] is a Keeper object"):
        assert_no_actor_objects(runtime)
    assert second.is_alive
    await runtime.stop_all()
