"""The public surface."""

import subprocess
import sys

import broadaxe


def test_all_is_sorted_and_importable():
    assert broadaxe.__all__ == sorted(broadaxe.__all__, key=str)
    for name in broadaxe.__all__:
        assert hasattr(broadaxe, name), name


def test_all_names_what_is_public():
    from types import ModuleType

    public = {
        name
        for name, value in vars(broadaxe).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(broadaxe.__all__)


def test_import_starts_no_thread_and_no_server_package():
    program = (
        "import threading, sys, broadaxe; broadaxe.Broadaxe();"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert not [m for m in sys.modules if m.startswith(('broadaxe_gateway', 'broadaxe_actors', 'asyncpg', 'fastapi'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
