"""The schema's numbered migrations: apply them, take them back, report, refuse what does not fit.

May touch asyncpg through `pool`. `migrations/NNNN_name.up.sql` and `.down.sql` are never edited after a release. Each runs in a
transaction of its own that holds an advisory lock, so that servers starting at once apply each once.
"""

import re
from dataclasses import dataclass
from importlib import resources

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import SchemaTooNew
from broadaxe_storage.pool import Connection, close, connect, translated_errors
from broadaxe_storage.queries import query

LOCK_CLASS = 0x62726F61
"""Class of our advisory locks ("broa"); the numbers in it are below and in `ownership`."""
_MIGRATION_LOCK = 1
_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.up\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `down` undoes what `up` did, data included."""

    version: int
    name: str
    up: str
    down: str


def known_migrations() -> list[Migration]:
    """All migrations of this release, by number, from 1 without a gap."""
    folder = resources.files("broadaxe_storage") / "migrations"
    found = []
    for file in folder.iterdir():
        match = _FILE.match(file.name)
        if match:
            down = folder / file.name.replace(".up.sql", ".down.sql")
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8"), down.read_text("utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1 to {len(found)}")
    return found


async def migrate(config: DatabaseConfig, *, target: int | None = None) -> int:
    """Bring the database to migration `target` (default: the newest known) and return how many steps that took.

    Safe to call from several servers at once. Going down loses the data of what is taken back.
    Raises `CannotConnect`, `DatabaseTooOld`, `SchemaTooNew`, and `CannotMigrate` for live runs that the older schema has no place for.
    """
    migrations = known_migrations()
    goal = len(migrations) if target is None else target
    if not 0 <= goal <= len(migrations):
        raise ValueError(f"migration {goal} does not exist: there are {len(migrations)}")
    connection = await connect(config.session_url, config, name="broadaxe-migrate")
    try:
        with translated_errors():
            if await _is_at(connection, goal, len(migrations)):
                return 0
            steps = 0
            while await _step(connection, migrations, goal):
                steps += 1
            return steps
    finally:
        await close(connection)


async def schema_version(connection: Connection) -> int:
    """The newest applied migration, 0 for a database without our schema."""
    if not await connection.fetchval(query("has_migration_table")):
        return 0
    version: int = await connection.fetchval(query("load_migration_version"))
    return version


async def _is_at(connection: Connection, goal: int, known: int) -> bool:
    current = await schema_version(connection)
    if current > known:
        raise SchemaTooNew(current, known)
    return current == goal


async def _step(connection: Connection, migrations: list[Migration], goal: int) -> bool:
    """Apply or take back one migration towards `goal`, unless another server was first. False when there is nothing left to do."""
    async with connection.transaction():
        await connection.execute(query("lock_migrations"), LOCK_CLASS, _MIGRATION_LOCK)
        await connection.execute(query("create_migration_table"))
        current: int = await connection.fetchval(query("load_migration_version"))
        if current > len(migrations):
            raise SchemaTooNew(current, len(migrations))
        if current == goal:
            return False
        if current < goal:
            step = migrations[current]
            await connection.execute(step.up)
            await connection.execute(query("insert_migration"), step.version, step.name)
        else:
            step = migrations[current - 1]
            await connection.execute(step.down)
            await connection.execute(query("delete_migration"), step.version)
        return True
