"""Database settings: read once from a mapping of environment variables, checked all at once, secrets out of `repr`.

May touch only `errors`. Variable names are the documented ones; durations are written as `15m` or `1m30s`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from broadaxe_storage.errors import InvalidConfig

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class DatabaseConfig:
    """Where the record lives and how many connections may reach it."""

    url: str = field(repr=False)
    """DATABASE_URL, else built from DATABASE_POSTGRES_HOST, _PORT, _USERNAME, _PASSWORD, _DB_NAME, _SSL_MODE."""
    direct_url: str = field(default="", repr=False)
    """DATABASE_DIRECT_URL: past pgbouncer, for what needs a session of its own (migrations, the engine's lock). Empty: `url`."""
    is_pgbouncer: bool = False
    """DATABASE_PGBOUNCER_ENABLED: `url` is a pgbouncer in transaction mode; no state is left on its sessions."""
    max_conns: int = 10
    """DATABASE_MAX_CONNS: the scheduler lives in memory, so a handful serves all reads."""
    min_conns: int = 1
    """DATABASE_MIN_CONNS: kept open when idle."""
    max_conn_lifetime_seconds: float = 900.0
    """DATABASE_MAX_CONN_LIFETIME: a connection older than this is closed when next given back."""
    max_conn_idle_seconds: float = 60.0
    """DATABASE_MAX_CONN_IDLE_TIME: an idle connection above `min_conns` is closed after this."""
    log_queries: bool = False
    """DATABASE_LOG_QUERIES: log each statement and its duration (never its arguments)."""
    replica_url: str = field(default="", repr=False)
    """READ_REPLICA_DATABASE_URL, used when READ_REPLICA_ENABLED: history reads go there. Empty: they go to `url`."""
    replica_max_conns: int = 10
    """READ_REPLICA_MAX_CONNS, for the pool of history reads with or without a replica."""
    replica_min_conns: int = 0
    """READ_REPLICA_MIN_CONNS."""
    connect_timeout_seconds: float = 10.0
    commit_timeout_seconds: float = 60.0
    """A commit without an answer for this long counts as a lost connection."""
    lock_wait_seconds: float = 3.0
    """How long taking over waits for the lock: the backend of a killed engine needs a moment to notice."""

    @property
    def session_url(self) -> str:
        """The address for connections that keep a session: past pgbouncer if there is one."""
        return self.direct_url or self.url

    def __post_init__(self) -> None:
        problems = _relations(asdict(self))
        if problems:
            raise InvalidConfig(problems)

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, embedded_url: str = "") -> "DatabaseConfig":
        """The settings that `env` asks for. Unset and empty are alike.

        `embedded_url` is used when `env` names no database at all. Raises `InvalidConfig` with every problem.
        """
        read = _Reader(env)
        # With slots the class itself does not hold the defaults.
        unset = cls(url="postgresql://")
        url = read.url("DATABASE_URL") or _url_from_parts(read) or embedded_url
        if not url and not read.problems:
            read.problems.append("DATABASE_URL is not set, and neither is DATABASE_POSTGRES_HOST: set one")
        values: dict[str, Any] = {
            "url": url,
            "direct_url": read.url("DATABASE_DIRECT_URL"),
            "is_pgbouncer": read.boolean("DATABASE_PGBOUNCER_ENABLED", unset.is_pgbouncer),
            "max_conns": read.integer("DATABASE_MAX_CONNS", unset.max_conns, 1),
            "min_conns": read.integer("DATABASE_MIN_CONNS", unset.min_conns, 0),
            "max_conn_lifetime_seconds": read.duration(
                "DATABASE_MAX_CONN_LIFETIME", unset.max_conn_lifetime_seconds
            ),
            "max_conn_idle_seconds": read.duration(
                "DATABASE_MAX_CONN_IDLE_TIME", unset.max_conn_idle_seconds
            ),
            "log_queries": read.boolean("DATABASE_LOG_QUERIES", unset.log_queries),
            "replica_url": read.url("READ_REPLICA_DATABASE_URL"),
            "replica_max_conns": read.integer("READ_REPLICA_MAX_CONNS", unset.replica_max_conns, 1),
            "replica_min_conns": read.integer("READ_REPLICA_MIN_CONNS", unset.replica_min_conns, 0),
        }
        if read.boolean("READ_REPLICA_ENABLED", False):
            if not values["replica_url"] and not read.has_problem("READ_REPLICA_DATABASE_URL"):
                read.problems.append("READ_REPLICA_ENABLED is true, and READ_REPLICA_DATABASE_URL is not set")
        else:
            values["replica_url"] = ""
        problems = [*read.problems, *_relations(values)]
        if problems:
            raise InvalidConfig(problems)
        return cls(**values)


def names_database(env: Mapping[str, str]) -> bool:
    """Whether `env` names a database; if not, the server runs its own."""
    return bool(env.get("DATABASE_URL") or env.get("DATABASE_POSTGRES_HOST"))


def without_password(url: str) -> str:
    """`url` for messages and logs, its password replaced by `***`, its options left out."""
    parts = urlsplit(url)
    if parts.password is not None:
        user, _, rest = parts.netloc.rpartition("@")
        netloc = (
            f"{user.split(':', 1)[0]}:***@{rest}" if parts.password else f"{user.split(':', 1)[0]}@{rest}"
        )
    else:
        netloc = parts.netloc
    socket_dir = re.search(r"(?:^|&)host=([^&]+)", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, f"host={socket_dir[1]}" if socket_dir else "", ""))


def _relations(values: Mapping[str, Any]) -> list[str]:
    """What must hold between settings, and for those given in code rather than by the environment."""
    problems = []
    for prefix, name in (("DATABASE", ""), ("READ_REPLICA", "replica_")):
        least, most = values[f"{name}min_conns"], values[f"{name}max_conns"]
        if least > most:
            problems.append(f"{prefix}_MIN_CONNS is {least}, above {prefix}_MAX_CONNS, which is {most}")
    if values["is_pgbouncer"] and not values["direct_url"]:
        problems.append(
            "DATABASE_PGBOUNCER_ENABLED is true, and DATABASE_DIRECT_URL is not set: migrations and the engine's lock "
            "need a connection past pgbouncer"
        )
    return problems


def _url_from_parts(read: "_Reader") -> str:
    host = read.text("DATABASE_POSTGRES_HOST")
    port = read.integer("DATABASE_POSTGRES_PORT", 5432, 1, 65535)
    user = read.text("DATABASE_POSTGRES_USERNAME") or "postgres"
    password = read.text("DATABASE_POSTGRES_PASSWORD")
    name = read.text("DATABASE_POSTGRES_DB_NAME") or user
    ssl_mode = read.choice("DATABASE_POSTGRES_SSL_MODE", "disable", _SSL_MODES)
    if not host:
        return ""
    account = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        return f"postgresql://{account}@/{quote(name, safe='')}?host={quote(host)}&port={port}&sslmode={ssl_mode}"
    host = f"[{host}]" if ":" in host else host
    return f"postgresql://{account}@{host}:{port}/{quote(name, safe='')}?sslmode={ssl_mode}"


class _Reader:
    """Reads variables one by one and remembers what was wrong with them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[str] = []

    def has_problem(self, name: str) -> bool:
        return any(problem.startswith(name) for problem in self.problems)

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip()

    def url(self, name: str) -> str:
        text = self.text(name)
        if text and not text.startswith(("postgres://", "postgresql://")):
            # The value is not quoted: it may hold a password.
            self.problems.append(f"{name} does not start with postgresql:// or postgres://")
            return ""
        try:
            _ = urlsplit(text).port
        except ValueError:
            self.problems.append(f"{name} has a port that is not a number from 0 to 65535")
            return ""
        return text

    def integer(self, name: str, default: int, least: int, most: int = 10_000) -> int:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            self.problems.append(f"{name} is {text!r}, expected a whole number from {least} to {most}")
            return default
        return int(text)

    def boolean(self, name: str, default: bool) -> bool:
        text = self.text(name).lower()
        if not text:
            return default
        if text not in _TRUE | _FALSE:
            self.problems.append(f"{name} is {text!r}, expected true or false")
            return default
        return text in _TRUE

    def duration(self, name: str, default: float) -> float:
        text = self.text(name)
        if not text:
            return default
        if not _DURATION.fullmatch(text):
            self.problems.append(f"{name} is {text!r}, expected a duration such as 15m or 1m30s")
            return default
        return sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(text))

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name)
        if not text:
            return default
        if text not in allowed:
            self.problems.append(f"{name} is {text!r}, expected one of {', '.join(allowed)}")
            return default
        return text
