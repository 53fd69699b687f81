"""Configuration of a server: every setting with its unit, default and reason, read once into one frozen object.

May read the environment, the configuration file and the files that settings name, in `load_config` alone; nothing below
looks at the environment. Layers, weakest first: the file (`--config` or BROADAXE_CONFIG, TOML, names as in the environment), the
environment, flags. A setting that no layer has stays None where the default depends on something found out later, such as a free port.
"""

import ipaddress
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from broadaxe_actors.resource_limits import Limits
from broadaxe_gateway.auth_config import AuthConfig, read_auth
from broadaxe_gateway.datadir import default_data_dir
from broadaxe_gateway.keysets import (
    Keyset,
    KeysetError,
    MasterKeyset,
    parse_jwt_keyset,
    parse_master_keyset,
)
from broadaxe_gateway.passwords import password_problem
from broadaxe_gateway.settings import ConfigError, SettingReader
from broadaxe_gateway.tenant_settings import RetentionConfig, read_limits, read_retention
from broadaxe_gateway.tls import tls_problems
from broadaxe_storage.config import DatabaseConfig, names_database
from broadaxe_storage.errors import InvalidConfig

FLAGS = {
    "grpc_port": ("--grpc-port", "SERVER_GRPC_PORT"),
    "http_port": ("--http-port", "SERVER_PORT"),
    "data_dir": ("--data-dir", "BROADAXE_DATA_DIR"),
    "keep_postgres": ("--keep-postgres", "BROADAXE_KEEP_POSTGRES"),
}
"""Flags of the command line: argument name, how the user writes it, the setting it stands for. `--host` sets two, see `load_config`."""

PREFIXES = ("SERVER_", "DATABASE_", "READ_REPLICA_", "ADMIN_", "DEFAULT_TENANT_", "BROADAXE_")
"""What a name in the configuration file starts with."""

EMBEDDED_URL = "postgresql://postgres@/postgres"
"""Stands for the embedded Postgres until it runs and its socket is known."""

_T = TypeVar("_T")

DEFAULT_HEALTH_PORT = 8733
MIN_MESSAGE_BYTES = 16 * 1024
MAX_MESSAGE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Transport security of the gRPC port. HTTP is plain: put it behind a proxy that ends TLS."""

    strategy: str = "none"
    """SERVER_TLS_STRATEGY: `tls`, `mtls` (clients must show a certificate of `root_ca`) or `none`. Unset: `tls` if a certificate is
    configured, else `none`, which only a loopback address gets without being asked for (SERVER_GRPC_INSECURE=true asks)."""
    certificate: bytes = b""
    """SERVER_TLS_CERT or SERVER_TLS_CERT_FILE: PEM, the chain with the server's own certificate first."""
    key: bytes = field(default=b"", repr=False)
    """SERVER_TLS_KEY or SERVER_TLS_KEY_FILE: PEM."""
    root_ca: bytes = b""
    """SERVER_TLS_ROOT_CA or SERVER_TLS_ROOT_CA_FILE: PEM; whom to trust for client certificates."""
    server_name: str = ""
    """SERVER_TLS_SERVER_NAME: the name in the certificate, told to local clients when it is not the address."""


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The port that workers and clients connect to."""

    bind_address: str = "127.0.0.1"
    """SERVER_GRPC_BIND_ADDRESS, or `--host`."""
    port: int = 7070
    """SERVER_GRPC_PORT; 0 takes a free one."""
    broadcast_address: str | None = None
    """SERVER_GRPC_BROADCAST_ADDRESS, `host:port` written into tokens. Unset: 127.0.0.1 (or the bind address) and the port."""
    max_message_bytes: int = 4_194_304
    """SERVER_GRPC_MAX_MSG_SIZE, bytes, each direction."""
    rate_limit: int = 1_000
    """SERVER_GRPC_RATE_LIMIT, requests a second and token, in a burst of as many; the dispatcher service gets ten times that. 0: no limit."""
    tls: TlsConfig = TlsConfig()


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The REST API, health and metrics."""

    bind_address: str = "127.0.0.1"
    """BROADAXE_HOST, or `--host`."""
    port: int = 8080
    """SERVER_PORT; 0 takes a free one."""
    server_url: str | None = None
    """SERVER_URL, written into tokens as audience and issuer and compared when they come back. Unset: http://127.0.0.1 and the port,
    and the port is not compared, so that tokens outlive a change of it."""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """A port of its own for probes, as orchestrators expect it: /live, /ready, /health."""

    is_enabled: bool = True
    """SERVER_HEALTHCHECK."""
    port: int | None = None
    """SERVER_HEALTHCHECK_PORT; 0 takes a free one. Unset: 8733 or, where another server on this machine has that, a free one."""


@dataclass(frozen=True, slots=True)
class PrometheusConfig:
    """A port of its own for the engine's metrics; /metrics of the HTTP port has them too."""

    is_enabled: bool = False
    """SERVER_PROMETHEUS_ENABLED."""
    host: str = ""
    """SERVER_PROMETHEUS_ADDRESS, `host:port`; the default `:9090` is every interface."""
    port: int = 9090
    path: str = "/metrics"
    """SERVER_PROMETHEUS_PATH, of this port and of the HTTP port."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"
    """SERVER_LOGGER_LEVEL: debug, info, warn (or warning) or error."""
    format: str = "console"
    """SERVER_LOGGER_FORMAT: console or json."""


@dataclass(frozen=True, slots=True)
class SeedConfig:
    """Made at the first start, left alone afterwards."""

    tenant_name: str = "Default"
    """DEFAULT_TENANT_NAME."""
    tenant_slug: str = "default"
    """DEFAULT_TENANT_SLUG."""
    tenant_id: str | None = None
    """DEFAULT_TENANT_ID, a UUID. Unset: one is made."""
    admin_name: str = "Admin"
    """ADMIN_NAME."""
    admin_email: str = "admin@example.com"
    """ADMIN_EMAIL."""
    admin_password: str = field(default="Admin123!!", repr=False)
    """ADMIN_PASSWORD, 8 to 64 characters with upper case, lower case and a digit."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All that a server is told. `load_config` builds it; tests may, too."""

    data_dir: Path
    """BROADAXE_DATA_DIR, or `--data-dir`: keys, the lock, the embedded Postgres."""
    database: DatabaseConfig
    """DATABASE_URL or DATABASE_POSTGRES_*, with pools and replica (see `broadaxe_storage.config`)."""
    is_embedded: bool = True
    """Neither is set: the server runs its own Postgres in the data directory, whose address replaces `database.url`."""
    profile_path: Path = Path("~/.broadaxe/profiles/local.json")
    """Below BROADAXE_HOME: where clients on this machine find the server (see `profile`)."""
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    health: HealthConfig = HealthConfig()
    prometheus: PrometheusConfig = PrometheusConfig()
    log: LogConfig = LogConfig()
    seed: SeedConfig = SeedConfig()
    auth: AuthConfig = field(default_factory=AuthConfig)
    jwt_keyset: Keyset | None = None
    """SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET[_FILE] and ..._PUBLIC_KEYSET[_FILE]; None uses the data directory's (see `keysets`)."""
    master_keyset: MasterKeyset | None = None
    """SERVER_ENCRYPTION_MASTER_KEYSET[_FILE]; None uses the data directory's."""
    max_internal_retries: int = 10
    """SERVER_MAX_INTERNAL_RETRY_COUNT: how often a task whose worker was lost is given to another before it fails."""
    priority_ageing: int = 0
    """SERVER_QUEUE_PRIORITY_AGEING: after how many task runs of higher priorities a task takes one of a lower that waits; 0: never."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    limits: Limits = field(default_factory=dict)
    """What each tenant may use: see `tenant_settings`."""
    is_log_ingestion_enabled: bool = True
    """SERVER_LOG_INGESTION_ENABLED: false drops the lines that tasks log."""
    is_replay_enabled: bool = True
    """SERVER_REPLAY_ENABLED: false refuses to run ended runs and tasks again."""
    keeps_postgres: bool = False
    """BROADAXE_KEEP_POSTGRES, or `--keep-postgres`: leave the embedded Postgres running on a graceful stop."""
    commit_delay_seconds: float = 0.0
    """BROADAXE_COMMIT_DELAY_MS, milliseconds added to every commit. For benchmarks only: it stands in for a disk that really flushes."""
    notices: tuple[str, ...] = ()
    """What the user should know about the choices made, a line each; logged when the server is ready."""


def load_config(environment: Mapping[str, str], flags: Mapping[str, object] | None = None) -> ServerConfig:
    """Build the configuration from file, environment and flags (by argument name; None is unset).

    Raises `ConfigError` with every problem found, each naming its variable.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    file_name = str(given.pop("config", "") or environment.get("BROADAXE_CONFIG", ""))
    file_values, problems = _read_file(Path(file_name).expanduser()) if file_name else ({}, [])
    sources = [(f"file {file_name}", file_values), ("environment", environment)]
    host = given.pop("host", None)
    if host is not None:
        sources.append(("--host", {"BROADAXE_HOST": str(host), "SERVER_GRPC_BIND_ADDRESS": str(host)}))
    for name, value in given.items():
        flag, variable = FLAGS[name]
        sources.append((flag, {variable: str(value)}))
    reader = SettingReader(*sources)
    reader.problems.extend(problems)
    config = _read_server(reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def _read_file(path: Path) -> tuple[dict[str, str], list[str]]:
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        return {}, [f"BROADAXE_CONFIG={str(path)!r}: cannot be read: {error.strerror or error}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [f"BROADAXE_CONFIG={str(path)!r}: is not TOML: {error}"]
    values: dict[str, str] = {}
    problems = []
    for name, value in raw.items():
        if not name.startswith(PREFIXES):
            problems.append(
                f"{name} (from file {path}): unknown setting; names start with {', '.join(PREFIXES)}"
            )
        elif isinstance(value, bool | int | float | str):
            values[name] = str(value)
        else:
            problems.append(f"{name} (from file {path}): expected text, a number or true or false")
    return values, problems


def _read_server(reader: SettingReader) -> ServerConfig:
    notices: list[str] = []
    data_dir = reader.text("BROADAXE_DATA_DIR")
    home = Path(reader.text("BROADAXE_HOME") or "~/.broadaxe").expanduser()
    log = LogConfig()
    jwt, master = _read_keysets(reader)
    log_ingestion = reader.flag("SERVER_LOG_INGESTION_ENABLED")
    return ServerConfig(
        data_dir=Path(data_dir).expanduser().absolute() if data_dir else default_data_dir(),
        profile_path=home / "profiles" / "local.json",
        database=_read_database(reader),
        is_embedded=not names_database(reader.values),
        grpc=_read_grpc(reader, notices),
        http=_read_http(reader),
        health=_read_health(reader),
        prometheus=_read_prometheus(reader),
        log=LogConfig(
            level=reader.choice("SERVER_LOGGER_LEVEL", ("debug", "info", "warn", "warning", "error"))
            or log.level,
            format=reader.choice("SERVER_LOGGER_FORMAT", ("console", "json")) or log.format,
        ),
        seed=_read_seed(reader, notices),
        auth=read_auth(reader, notices),
        jwt_keyset=jwt,
        master_keyset=master,
        max_internal_retries=_or(
            reader.integer("SERVER_MAX_INTERNAL_RETRY_COUNT", low=0, high=1_000_000), 10
        ),
        priority_ageing=_or(reader.integer("SERVER_QUEUE_PRIORITY_AGEING", low=0, high=1_000_000), 0),
        retention=read_retention(reader),
        limits=read_limits(reader),
        is_log_ingestion_enabled=_or(log_ingestion, True),
        is_replay_enabled=_or(reader.flag("SERVER_REPLAY_ENABLED"), True),
        keeps_postgres=reader.flag("BROADAXE_KEEP_POSTGRES") or False,
        commit_delay_seconds=_or(reader.number("BROADAXE_COMMIT_DELAY_MS", low=0, high=60_000), 0.0) / 1000,
        notices=tuple(notices),
    )


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _read_grpc(reader: SettingReader, notices: list[str]) -> GrpcConfig:
    default = GrpcConfig()
    bind_address = reader.text("SERVER_GRPC_BIND_ADDRESS") or default.bind_address
    broadcast = reader.text("SERVER_GRPC_BROADCAST_ADDRESS")
    if broadcast is not None and not broadcast.rpartition(":")[2].isdecimal():
        reader.refuse(
            "SERVER_GRPC_BROADCAST_ADDRESS", "expected host:port without a scheme, such as example.com:7070"
        )
    return GrpcConfig(
        bind_address=bind_address,
        port=_or(reader.port("SERVER_GRPC_PORT"), default.port),
        broadcast_address=broadcast,
        max_message_bytes=_or(
            reader.integer("SERVER_GRPC_MAX_MSG_SIZE", low=MIN_MESSAGE_BYTES, high=MAX_MESSAGE_BYTES),
            default.max_message_bytes,
        ),
        rate_limit=_or(
            reader.integer("SERVER_GRPC_RATE_LIMIT", low=0, high=1_000_000_000), default.rate_limit
        ),
        tls=_read_tls(reader, bind_address, notices),
    )


def _read_tls(reader: SettingReader, bind_address: str, notices: list[str]) -> TlsConfig:
    before = len(reader.problems)
    strategy = reader.choice("SERVER_TLS_STRATEGY", ("tls", "mtls", "none"))
    certificate = reader.pem("SERVER_TLS_CERT")
    key = reader.pem("SERVER_TLS_KEY")
    root_ca = reader.pem("SERVER_TLS_ROOT_CA")
    is_insecure = reader.flag("SERVER_GRPC_INSECURE")
    server_name = reader.text("SERVER_TLS_SERVER_NAME") or ""
    if len(reader.problems) > before:
        return TlsConfig()
    is_asked_plain = is_insecure is True or strategy == "none"
    if is_asked_plain or (strategy is None and certificate is None):
        if not is_asked_plain and not is_loopback(bind_address):
            reader.problems.append(
                f"SERVER_TLS_STRATEGY: no certificate is configured and gRPC is to listen on {bind_address}, where others "
                "would read tokens and data; set SERVER_TLS_CERT_FILE and SERVER_TLS_KEY_FILE, or ask for plaintext with "
                "SERVER_TLS_STRATEGY=none"
            )
        notices.append(
            "gRPC is served without TLS: clients that do not use the local profile need BROADAXE_CLIENT_TLS_STRATEGY=none"
        )
        return TlsConfig(server_name=server_name)
    strategy = strategy or "tls"
    for name, content in (("SERVER_TLS_CERT", certificate), ("SERVER_TLS_KEY", key)):
        if content is None:
            reader.problems.append(f"{name} or {name}_FILE: needed for SERVER_TLS_STRATEGY={strategy}")
    if strategy == "mtls" and root_ca is None:
        reader.problems.append(
            "SERVER_TLS_ROOT_CA or SERVER_TLS_ROOT_CA_FILE: needed for SERVER_TLS_STRATEGY=mtls, to check clients by"
        )
    tls = TlsConfig(strategy, certificate or b"", key or b"", root_ca or b"", server_name)
    if len(reader.problems) == before:
        reader.problems.extend(tls_problems(tls))
    return tls


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_http(reader: SettingReader) -> HttpConfig:
    default = HttpConfig()
    url = reader.text("SERVER_URL")
    if url is not None and not url.startswith(("http://", "https://")):
        reader.refuse("SERVER_URL", "expected a URL with http:// or https://")
    return HttpConfig(
        bind_address=reader.text("BROADAXE_HOST") or default.bind_address,
        port=_or(reader.port("SERVER_PORT"), default.port),
        server_url=url.rstrip("/") if url else None,
    )


def _read_health(reader: SettingReader) -> HealthConfig:
    default = HealthConfig()
    return HealthConfig(
        is_enabled=_or(reader.flag("SERVER_HEALTHCHECK"), default.is_enabled),
        port=reader.port("SERVER_HEALTHCHECK_PORT"),
    )


def _read_prometheus(reader: SettingReader) -> PrometheusConfig:
    default = PrometheusConfig()
    host, port = reader.address("SERVER_PROMETHEUS_ADDRESS") or (default.host, default.port)
    path = reader.text("SERVER_PROMETHEUS_PATH") or default.path
    if not path.startswith("/"):
        reader.refuse("SERVER_PROMETHEUS_PATH", "expected a path that starts with /")
    return PrometheusConfig(reader.flag("SERVER_PROMETHEUS_ENABLED") or False, host, port, path)


def _read_seed(reader: SettingReader, notices: list[str]) -> SeedConfig:
    default = SeedConfig()
    tenant_id = reader.text("DEFAULT_TENANT_ID")
    if tenant_id is not None:
        try:
            tenant_id = str(uuid.UUID(tenant_id))
        except ValueError:
            reader.refuse("DEFAULT_TENANT_ID", "expected a UUID")
    email = reader.text("ADMIN_EMAIL") or default.admin_email
    if "@" not in email:
        reader.refuse("ADMIN_EMAIL", "expected an e-mail address")
    password = reader.secret("ADMIN_PASSWORD") or default.admin_password
    host = reader.text("BROADAXE_HOST") or "127.0.0.1"
    if password == default.admin_password and not is_loopback(host):
        notices.append(
            f"{email} may have the password that the documents name, and HTTP listens on {host}: set ADMIN_PASSWORD before the first start, or change it"
        )
    if problem := password_problem(password):
        reader.refuse("ADMIN_PASSWORD", problem, is_secret=True)
    return SeedConfig(
        tenant_name=reader.text("DEFAULT_TENANT_NAME") or default.tenant_name,
        tenant_slug=reader.text("DEFAULT_TENANT_SLUG") or default.tenant_slug,
        tenant_id=tenant_id,
        admin_name=reader.text("ADMIN_NAME") or default.admin_name,
        admin_email=email,
        admin_password=password,
    )


def _read_keysets(reader: SettingReader) -> tuple[Keyset | None, MasterKeyset | None]:
    private_name = "SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET"
    public_name = "SERVER_ENCRYPTION_JWT_PUBLIC_KEYSET"
    master_name = "SERVER_ENCRYPTION_MASTER_KEYSET"
    private, public, master_content = (
        reader.material(private_name),
        reader.material(public_name),
        reader.material(master_name),
    )
    jwt = master = None
    if private is not None:
        try:
            jwt = parse_jwt_keyset(private)
        except KeysetError as error:
            reader.problems.append(f"{_given(reader, private_name)}: {error}")
        else:
            try:
                jwt = parse_jwt_keyset(private, public)
            except KeysetError as error:
                reader.problems.append(f"{_given(reader, public_name)}: {error}")
    elif public is not None:
        reader.problems.append(
            f"{private_name} or {private_name}_FILE: needed beside {public_name}, to sign tokens"
        )
    if master_content is not None:
        try:
            master = parse_master_keyset(master_content)
        except KeysetError as error:
            reader.problems.append(f"{_given(reader, master_name)}: {error}")
    return jwt, master


def _given(reader: SettingReader, name: str) -> str:
    return f"{name}_FILE" if reader.is_set(f"{name}_FILE") else name


def _read_database(reader: SettingReader) -> DatabaseConfig:
    try:
        return DatabaseConfig.from_env(reader.values, embedded_url=EMBEDDED_URL)
    except InvalidConfig as error:
        reader.problems.extend(error.problems)
        return DatabaseConfig(url=EMBEDDED_URL)
