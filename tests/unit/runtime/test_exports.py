"""The public surface of the runtime cannot drift unnoticed."""

import importlib
import pkgutil
import types

import broadaxe_actors.runtime as package


def test_all_is_sorted_and_complete():
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert list(package.__all__) == sorted(package.__all__)
    assert set(package.__all__) == public


def test_the_runtime_knows_nothing_of_tasks():
    for module in pkgutil.iter_modules(package.__path__):
        names = vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        strangers = {
            value.__module__
            for value in names
            if (getattr(value, "__module__", None) or "").startswith("broadaxe")
            and not value.__module__.startswith(package.__name__)
        }
        assert strangers <= {"broadaxe_actors.errors"}
