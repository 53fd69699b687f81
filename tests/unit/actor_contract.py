"""Reads source code for breaches of one rule: an actor holds handles, never another actor's object.

`breaches(directory)` reads a package and tells, without running anything, where it

- creates an actor itself, by calling its class, `start`, `object.__new__` or through an alias, instead of `Runtime.spawn`;
- declares, in an actor's class, a variable or parameter to be another actor's object, instead of a `Handle` of it (the parts that one actor is made
  of may hold that actor: they are the same one);
- reaches through a handle to the object behind it, outside the runtime.

What cannot be seen in source (a class from a variable, say) `Actor.__new__` refuses when the program runs, and
`runtime.testing.assert_no_actor_objects` finds among live actors.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

BASES = {
    "broadaxe_actors.runtime.Actor",
    "broadaxe_actors.runtime.actor.Actor",
    "pykka.Actor",
    "pykka.ThreadingActor",
}
WRAPPERS = {"Handle", "type", "Callable", "Directory", "ClassVar"}
"""What may have an actor's class in its brackets: it stands for the class, or for a handle."""
INSIDE = {"_inbox", "live_actors", "actor_inbox"}
"""Attributes by which the runtime itself gets at an actor's object."""


class Module:
    """A parsed module and what its names mean."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self.names[alias.asname or alias.name] = f"{self._source(node)}.{alias.name}"
        elif isinstance(node, ast.ClassDef):
            self.names[node.name] = f"{self.name}.{node.name}"
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute):
            meaning = self.meaning(node.value)
            for target in node.targets:
                if meaning and isinstance(target, ast.Name):
                    self.names.setdefault(target.id, meaning)

    def _source(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")
        if self.path.name != "__init__.py":
            package.pop()
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def meaning(self, node: ast.expr) -> str | None:
        """The full name of a dotted expression, if it has one."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.meaning(node.value)
            return f"{owner}.{node.attr}" if owner else None
        if isinstance(node, ast.Subscript):  # Base[T]
            return self.meaning(node.value)
        return None


def breaches(directory: Path) -> list[str]:
    """Every breach in the modules of a package, as `path:line: what`."""
    modules = [
        Module(".".join([directory.name, *_dotted(path.relative_to(directory))]), path)
        for path in sorted(directory.rglob("*.py"))
    ]
    actors = _actor_classes(modules)
    return [breach for module in modules for breach in _module_breaches(module, actors)]


def _dotted(relative: Path) -> list[str]:
    parts = list(relative.with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def _actor_classes(modules: list[Module]) -> set[str]:
    actors = set(BASES)
    while True:
        found = {
            name
            for module in modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef) and any(module.meaning(base) in actors for base in node.bases)
            for name in (f"{module.name}.{node.name}",)
        }
        # A class that one module imports from another by way of a third keeps its meaning.
        found |= {
            f"{module.name}.{name}"
            for module in modules
            for name, meaning in module.names.items()
            if meaning in actors | found
        }
        if found <= actors:
            return actors
        actors |= found


def _module_breaches(module: Module, actors: set[str]) -> Iterator[str]:
    is_runtime = ".runtime" in module.name
    for node in ast.walk(module.tree):
        what = None
        if isinstance(node, ast.Call):
            what = _created(module, node, actors)
        elif isinstance(node, ast.Attribute) and node.attr in INSIDE and not is_runtime:
            what = f"reaches for {node.attr!r}, behind which an actor's object is: send it a message"
        elif isinstance(node, ast.ClassDef) and f"{module.name}.{node.name}" in actors and not is_runtime:
            yield from _class_breaches(module, node, actors)
        if what:
            yield f"{module.path}:{node.lineno}: {what}"


def _class_breaches(module: Module, actor: ast.ClassDef, actors: set[str]) -> Iterator[str]:
    others = actors - {f"{module.name}.{actor.name}"}
    for node in ast.walk(actor):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            what = _declared(module, node.annotation, others)
            if what:
                yield f"{module.path}:{node.lineno}: {what}"


def _created(module: Module, call: ast.Call, actors: set[str]) -> str | None:
    function = call.func
    meaning = module.meaning(function)
    if meaning in actors:
        return f"creates {meaning} itself: use Runtime.spawn"
    if isinstance(function, ast.Attribute):
        if function.attr in {"start", "__new__"} and module.meaning(function.value) in actors:
            return f"creates {module.meaning(function.value)} by {function.attr}: use Runtime.spawn"
        is_new = function.attr == "__new__" and isinstance(function.value, ast.Name)
        if is_new and any(module.meaning(argument) in actors for argument in call.args):
            return "creates an actor by object.__new__: use Runtime.spawn"
    return None


def _declared(module: Module, annotation: ast.expr, actors: set[str]) -> str | None:
    """An actor's class in an annotation, outside of the brackets of what may name it."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    if isinstance(annotation, ast.Subscript):
        name = (module.meaning(annotation.value) or ast.unparse(annotation.value)).rpartition(".")[2]
        if name in WRAPPERS:
            return None
        parts: list[ast.expr] = [annotation.slice]
    elif isinstance(annotation, ast.Tuple):
        parts = annotation.elts
    elif isinstance(annotation, ast.BinOp):
        parts = [annotation.left, annotation.right]
    else:
        meaning = module.meaning(annotation)
        return f"declares an object of {meaning}: hold a Handle[...] of it" if meaning in actors else None
    return next((what for part in parts if (what := _declared(module, part, actors))), None)
