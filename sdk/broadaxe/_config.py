"""Where the server is and how to talk to it: one frozen value, read once when a client is made.

Order, for each setting alone: the argument, `BROADAXE_CLIENT_*`, `HATCHET_CLIENT_*`, then the profile that a server on this machine
wrote (`${BROADAXE_HOME:-~/.broadaxe}/profiles/local.json`), then what the token says, then the default. The profile counts as a whole, and
only when neither argument nor environment gives a token.

| argument | variable (after the prefix) | default |
|---|---|---|
| `token` | `TOKEN` | the local profile's |
| `host_port` | `HOST_PORT` | the token's `grpc_broadcast_address` |
| `server_url` | `SERVER_URL`, `API_URL` | the token's `server_url` |
| `namespace` | `NAMESPACE` | none |
| `tls_config.strategy` | `TLS_STRATEGY` | `tls` |
| `tls_config.cert_file`, `key_file`, `root_ca_file`, `server_name` | `TLS_CERT_FILE`, `TLS_KEY_FILE`, `TLS_ROOT_CA_FILE`, `TLS_SERVER_NAME` | none |
| `tls_config.cert`, `key`, `root_ca` (PEM text) | `TLS_CERT`, `TLS_KEY`, `TLS_ROOT_CA` | none |
| `grpc_max_recv_message_length`, `grpc_max_send_message_length` | the same, in bytes | 4194304 |
| `connect_timeout_seconds` | `CONNECT_TIMEOUT_SECONDS` | 30 |
| `healthcheck.enabled`, `port`, `event_loop_block_threshold_seconds`, `bind_address` | `WORKER_HEALTHCHECK_*` | false, 8001, 5, 0.0.0.0 |
| `tenacity.max_attempts`, `retry_429`, `retry_transport_errors`, `retry_transport_methods` | `TENACITY_*`; methods as `GET,DELETE` | 5, false, false, GET and DELETE |
| `worker_preset_labels` | `WORKER_PRESET_LABELS`, as `a=1,b=x` | none |
| `log_level` of the SDK's own records | `LOG_LEVEL` | left as it is; INFO in a worker where `logging` is not set up |
| `logger` whose records go to the logs of tasks | | the root logger |
"""

import base64
import binascii
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPMethod
from pathlib import Path
from typing import Any

from broadaxe._errors import ConfigurationError

PREFIXES = ("BROADAXE_CLIENT_", "HATCHET_CLIENT_")
_STRATEGIES = ("tls", "mtls", "none")
_TRUE, _FALSE = ("1", "true", "t", "yes", "on"), ("0", "false", "f", "no", "off", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTLSConfig:
    """How the connection is secured; None is "not given"."""

    strategy: str | None = None
    """`tls`, `mtls` (with our certificate) or `none`."""
    cert_file: str | None = None
    key_file: str | None = None
    root_ca_file: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    root_ca: str | None = None
    server_name: str | None = None
    """Name to expect in the server's certificate, when it is not the host of `host_port`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthcheckConfig:
    """The worker's HTTP server for `/health` and `/metrics`; None is "not given"."""

    enabled: bool | None = None
    port: int | None = None
    event_loop_block_threshold_seconds: float | None = None
    bind_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenacityConfig:
    """Which calls of the client are repeated, and how often; None is "not given". Has nothing to do with the retries of tasks."""

    max_attempts: int | None = None
    """Of one call, the first included; 0 and 1 repeat nothing."""
    retry_429: bool | None = None
    """Repeat a REST call that the server's rate limit refused."""
    retry_transport_errors: bool | None = None
    """Repeat a REST call whose answer has not come: refused or broken connections, timeouts, TLS."""
    retry_transport_methods: Sequence[HTTPMethod] | None = None
    """Only those. A call that changes something may have done so before its answer was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Settings of a client, each optional; None is "not given". The table is at the head of this module."""

    token: str | None = field(default=None, repr=False)
    host_port: str | None = None
    server_url: str | None = None
    namespace: str | None = None
    tls_config: ClientTLSConfig = ClientTLSConfig()
    healthcheck: HealthcheckConfig = HealthcheckConfig()
    tenacity: TenacityConfig = TenacityConfig()
    grpc_max_recv_message_length: int | None = None
    grpc_max_send_message_length: int | None = None
    connect_timeout_seconds: float | None = None
    worker_preset_labels: Mapping[str, str | int] | None = None
    log_level: str | None = None
    logger: logging.Logger | None = None
    """Whose records, emitted inside a task, go to that task's logs; the root logger when not given."""


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """PEM contents, read from where they were."""

    strategy: str
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    root_ca: bytes | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class HealthcheckSettings:
    enabled: bool
    port: int
    event_loop_block_threshold_seconds: float
    bind_address: str


@dataclass(frozen=True, slots=True)
class RetrySettings:
    max_attempts: int
    """Of one call, the first included: 1 or more."""
    retry_429: bool
    retry_transport_errors: bool
    retry_transport_methods: frozenset[HTTPMethod]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client works with: everything decided."""

    token: str = field(repr=False)
    tenant_id: str
    host_port: str
    server_url: str
    namespace: str
    """Lower case, with the `_` that joins it to names; empty for none."""
    tls: TLSSettings
    healthcheck: HealthcheckSettings
    retries: RetrySettings
    max_receive_bytes: int
    max_send_bytes: int
    connect_timeout_seconds: float
    worker_preset_labels: Mapping[str, str | int]
    log_level: str | None
    logger: logging.Logger


def profile_path(env: Mapping[str, str] | None = None) -> Path:
    """Where a server on this machine leaves its address and a token."""
    home = (os.environ if env is None else env).get("BROADAXE_HOME")
    return (Path(home) if home else Path.home() / ".broadaxe") / "profiles" / "local.json"


def load_settings(config: ClientConfig, env: Mapping[str, str] | None = None) -> Settings:
    """Decide every setting. Raises `ConfigurationError` naming what is missing or wrong, all of it at once."""
    reader = _Reader(os.environ if env is None else env)
    profile: dict[str, Any] = {}
    token = reader.text("token", config.token, "TOKEN")
    if not token:
        profile = _read_profile(profile_path(reader.env))
        token = str(profile.get("token", ""))
    if not token:
        raise ConfigurationError(
            "no API token: pass Broadaxe(token=...), set BROADAXE_CLIENT_TOKEN, or start a server on this machine with "
            f"`broadaxe server start` (it writes {profile_path(reader.env)})"
        )
    claims = _claims(token)
    host_port = _address(
        reader.text("host_port", config.host_port, "HOST_PORT")
        or str(profile.get("grpc_address") or claims.get("grpc_broadcast_address") or "")
    )
    if not host_port:
        reader.problems.append(
            "no server address: the token names none; pass host_port or set BROADAXE_CLIENT_HOST_PORT"
        )
    settings = Settings(
        token=token,
        tenant_id=str(claims.get("sub", "")),
        host_port=host_port,
        server_url=reader.text("server_url", config.server_url, "SERVER_URL", "API_URL")
        or str(profile.get("server_url") or claims.get("server_url") or ""),
        namespace=_namespace(reader.text("namespace", config.namespace, "NAMESPACE") or ""),
        tls=_tls(reader, config.tls_config, str(profile.get("tls_strategy") or "tls"), profile),
        healthcheck=_healthcheck(reader, config.healthcheck),
        retries=_retries(reader, config.tenacity),
        max_receive_bytes=reader.integer(
            config.grpc_max_recv_message_length, "GRPC_MAX_RECV_MESSAGE_LENGTH", 4 << 20
        ),
        max_send_bytes=reader.integer(
            config.grpc_max_send_message_length, "GRPC_MAX_SEND_MESSAGE_LENGTH", 4 << 20
        ),
        connect_timeout_seconds=reader.number(
            config.connect_timeout_seconds, "CONNECT_TIMEOUT_SECONDS", 30.0
        ),
        worker_preset_labels=reader.labels(config.worker_preset_labels, "WORKER_PRESET_LABELS"),
        log_level=reader.log_level(config.log_level, "LOG_LEVEL"),
        logger=config.logger or logging.getLogger(),
    )
    if reader.problems:
        raise ConfigurationError("; ".join(reader.problems))
    return settings


def load_namespace(config: ClientConfig, env: Mapping[str, str] | None = None) -> str:
    """The namespace alone, for which no token is needed."""
    reader = _Reader(os.environ if env is None else env)
    return _namespace(reader.text("namespace", config.namespace, "NAMESPACE") or "")


def load_max_send_bytes(config: ClientConfig, env: Mapping[str, str] | None = None) -> int:
    """The largest message to send, for which no token is needed."""
    reader = _Reader(os.environ if env is None else env)
    return reader.integer(config.grpc_max_send_message_length, "GRPC_MAX_SEND_MESSAGE_LENGTH", 4 << 20)


def with_arguments(
    config: ClientConfig | None, *, token: str | None, host_port: str | None, namespace: str | None
) -> ClientConfig:
    """The config with single arguments laid over it."""
    given = {
        name: value
        for name, value in (("token", token), ("host_port", host_port), ("namespace", namespace))
        if value is not None
    }
    return replace(config or ClientConfig(), **given)  # type: ignore[arg-type]


class _Reader:
    """Takes settings from argument or environment and collects what is wrong with them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []

    def raw(self, *names: str) -> tuple[str, str] | None:
        """(variable, value) of the first variable that is set to something."""
        for prefix in PREFIXES:
            for name in names:
                value = self.env.get(prefix + name, "").strip()
                if value:
                    return prefix + name, value
        return None

    def text(self, argument: str, given: str | None, *names: str) -> str | None:
        if given is not None:
            if not isinstance(given, str):
                self.problems.append(f"{argument} is {given!r}: expected text")
                return None
            return given
        found = self.raw(*names)
        return found[1] if found else None

    def number(self, given: float | None, name: str, default: float) -> float:
        if given is not None:
            return given
        found = self.raw(name)
        if found is None:
            return default
        try:
            return float(found[1])
        except ValueError:
            self.problems.append(f"{found[0]} is {found[1]!r}: expected a number")
            return default

    def integer(self, given: int | None, name: str, default: int) -> int:
        value = self.number(given, name, default)
        if value != int(value) or value <= 0:
            self.problems.append(f"{name} is {value}: expected a whole number above 0")
            return default
        return int(value)

    def boolean(self, given: bool | None, name: str, default: bool) -> bool:
        found = self.raw(name)
        if given is not None or found is None:
            return default if given is None else given
        if found[1].lower() not in _TRUE + _FALSE:
            self.problems.append(f"{found[0]} is {found[1]!r}: expected true or false")
        return found[1].lower() in _TRUE

    def labels(self, given: Mapping[str, str | int] | None, name: str) -> Mapping[str, str | int]:
        found = self.raw(name)
        if given is not None or found is None:
            return dict(given or {})
        labels: dict[str, str | int] = {}
        for part in found[1].split(","):
            key, separator, value = part.partition("=")
            if not separator or not key.strip():
                self.problems.append(f"{found[0]} has {part!r}: expected name=value, separated by commas")
                continue
            text = value.strip()
            labels[key.strip()] = int(text) if text.lstrip("-").isdigit() else text
        return labels

    def methods(self, given: Sequence[HTTPMethod] | None, name: str) -> frozenset[HTTPMethod]:
        found = self.raw(name)
        if given is None and found is None:
            return frozenset({HTTPMethod.GET, HTTPMethod.DELETE})
        texts = (found[1] if found else "").strip("[]").split(",") if given is None else given
        methods = set()
        for text in texts:
            method = str(text).strip(" \"'").upper()
            if method in HTTPMethod.__members__:
                methods.add(HTTPMethod(method))
            else:
                self.problems.append(
                    f"{name} has {str(text)!r}: expected some of {', '.join(HTTPMethod.__members__)}"
                )
        return frozenset(methods)

    def log_level(self, given: str | None, name: str) -> str | None:
        text = (self.text("log_level", given, name) or "").upper()
        if text and text not in logging.getLevelNamesMapping():
            self.problems.append(f"{name} is {text!r}: expected DEBUG, INFO, WARN or ERROR")
        return text or None

    def pem(self, text: str | None, file: str | None, text_name: str, file_name: str) -> bytes | None:
        text = self.text(text_name, text, text_name)
        if text:
            return text.encode()
        path = self.text(file_name, file, file_name)
        if not path:
            return None
        try:
            return Path(path).expanduser().read_bytes()
        except OSError as error:
            self.problems.append(f"{file_name} {path!r} cannot be read: {error.strerror}")
            return None


def _tls(reader: _Reader, config: ClientTLSConfig, default: str, profile: Mapping[str, Any]) -> TLSSettings:
    strategy = (reader.text("tls_config.strategy", config.strategy, "TLS_STRATEGY") or default).lower()
    if strategy not in _STRATEGIES:
        reader.problems.append(f"TLS_STRATEGY is {strategy!r}: expected one of {', '.join(_STRATEGIES)}")
        strategy = "tls"
    if strategy == "none":
        return TLSSettings("none")
    root_ca_file = config.root_ca_file or (
        str(profile["tls_root_ca_file"]) if profile.get("tls_root_ca_file") else None
    )
    settings = TLSSettings(
        strategy,
        reader.pem(config.cert, config.cert_file, "TLS_CERT", "TLS_CERT_FILE"),
        reader.pem(config.key, config.key_file, "TLS_KEY", "TLS_KEY_FILE"),
        reader.pem(config.root_ca, root_ca_file, "TLS_ROOT_CA", "TLS_ROOT_CA_FILE"),
        reader.text("tls_config.server_name", config.server_name, "TLS_SERVER_NAME") or None,
    )
    if strategy == "mtls" and not (settings.cert and settings.key):
        reader.problems.append("TLS_STRATEGY is 'mtls': it needs TLS_CERT_FILE and TLS_KEY_FILE")
    return settings


def _healthcheck(reader: _Reader, config: HealthcheckConfig) -> HealthcheckSettings:
    return HealthcheckSettings(
        enabled=reader.boolean(config.enabled, "WORKER_HEALTHCHECK_ENABLED", default=False),
        port=reader.integer(config.port, "WORKER_HEALTHCHECK_PORT", 8001),
        event_loop_block_threshold_seconds=reader.number(
            config.event_loop_block_threshold_seconds,
            "WORKER_HEALTHCHECK_EVENT_LOOP_BLOCK_THRESHOLD_SECONDS",
            5.0,
        ),
        bind_address=reader.text("bind_address", config.bind_address, "WORKER_HEALTHCHECK_BIND_ADDRESS")
        or "0.0.0.0",
    )


def _retries(reader: _Reader, config: TenacityConfig) -> RetrySettings:
    attempts = reader.number(config.max_attempts, "TENACITY_MAX_ATTEMPTS", 5)
    if attempts != int(attempts) or attempts < 0:
        reader.problems.append(f"TENACITY_MAX_ATTEMPTS is {attempts}: expected a whole number, 0 or more")
        attempts = 5
    return RetrySettings(
        max_attempts=max(1, int(attempts)),
        retry_429=reader.boolean(config.retry_429, "TENACITY_RETRY_429", default=False),
        retry_transport_errors=reader.boolean(
            config.retry_transport_errors, "TENACITY_RETRY_TRANSPORT_ERRORS", default=False
        ),
        retry_transport_methods=reader.methods(
            config.retry_transport_methods, "TENACITY_RETRY_TRANSPORT_METHODS"
        ),
    )


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"the local profile {path} cannot be read: {error.strerror}") from error
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"the local profile {path} is not valid JSON: start the server again"
        ) from error
    if not isinstance(profile, dict):
        raise ConfigurationError(f"the local profile {path} is not a JSON object: start the server again")
    return profile


def _claims(token: str) -> dict[str, Any]:
    """What the token says, unverified: only the server can verify it."""
    parts = token.split(".")
    try:
        if len(parts) != 3:
            raise ValueError("not three parts")  # noqa: TRY301 - one answer for every way to be malformed
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        if not isinstance(claims, dict):
            raise TypeError("not an object")  # noqa: TRY301
    except (ValueError, TypeError, binascii.Error) as error:
        raise ConfigurationError(
            "the API token is not a token of a server (a JWT of three parts): copy it again, or make one with `broadaxe token create`"
        ) from error
    return claims


def _address(text: str) -> str:
    """`host:port` without scheme and trailing slash."""
    return text.partition("://")[2].rstrip("/") if "://" in text else text.rstrip("/")


def _namespace(text: str) -> str:
    text = text.strip().lower()
    return f"{text}_" if text and not text.endswith("_") else text
