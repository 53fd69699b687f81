"""Settings: layers, defaults, and refusals that name their variable, all at once."""

import base64
import dataclasses
import stat

import pytest

from broadaxe_actors.resource_limits import Resource
from broadaxe_gateway.config import HttpConfig, ServerConfig, load_config
from broadaxe_gateway.keysets import (
    generate_jwt_keyset,
    generate_master_keyset,
    open_keysets,
    parse_jwt_keyset,
)
from broadaxe_gateway.settings import ConfigError
from broadaxe_gateway.tenant_settings import RetentionConfig
from tests.gateway.certificates import Authority

AUTHORITY = Authority()
SERVER = AUTHORITY.sign("server")
CERTIFICATE, KEY = SERVER.certificate.decode(), SERVER.key.decode()


def problems_of(environment, **flags) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(environment, flags)
    return caught.value.problems


def test_defaults_are_the_documented_ones():
    config = load_config({})
    assert config.grpc.port == 7070
    assert config.grpc.bind_address == "127.0.0.1"
    assert config.grpc.max_message_bytes == 4_194_304
    assert config.grpc.rate_limit == 1000
    assert config.http == HttpConfig("127.0.0.1", 8080, None)
    assert (config.health.is_enabled, config.health.port) == (True, None)
    assert (config.prometheus.is_enabled, config.prometheus.port, config.prometheus.path) == (
        False,
        9090,
        "/metrics",
    )
    assert config.max_internal_retries == 10
    assert config.priority_ageing == 0
    assert config.is_log_ingestion_enabled is True
    assert config.is_replay_enabled is True
    assert config.is_embedded is True
    assert config.seed.tenant_slug == "default"
    assert config.seed.admin_email == "admin@example.com"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("SERVER_REPLAY_ENABLED", "is_replay_enabled"),
        ("SERVER_LOG_INGESTION_ENABLED", "is_log_ingestion_enabled"),
    ],
)
def test_features_are_switched_off_by_name(name, field):
    assert getattr(load_config({name: "false"}), field) is False
    (problem,) = problems_of({name: "off and on"})
    assert name in problem


def test_priorities_age_by_a_whole_number_of_runs():
    assert load_config({"SERVER_QUEUE_PRIORITY_AGEING": "50"}).priority_ageing == 50
    for wrong in ("-1", "0.5"):
        (problem,) = problems_of({"SERVER_QUEUE_PRIORITY_AGEING": wrong})
        assert "SERVER_QUEUE_PRIORITY_AGEING" in problem


def test_flags_win_over_environment_and_environment_over_file(tmp_path):
    file = tmp_path / "broadaxe.toml"
    file.write_text('SERVER_PORT = 1001\nSERVER_GRPC_PORT = 1002\nSERVER_URL = "http://file"\n')
    config = load_config(
        {"BROADAXE_CONFIG": str(file), "SERVER_PORT": "2001", "SERVER_GRPC_PORT": "2002"},
        {"grpc_port": 3002, "http_port": None},
    )
    assert config.http.port == 2001
    assert config.grpc.port == 3002
    assert config.http.server_url == "http://file"


def test_empty_value_is_unset_and_does_not_hide_the_file(tmp_path):
    file = tmp_path / "broadaxe.toml"
    file.write_text("SERVER_PORT = 1001\n")
    assert load_config({"BROADAXE_CONFIG": str(file), "SERVER_PORT": ""}).http.port == 1001


def test_host_flag_sets_both_listeners():
    config = load_config({"SERVER_GRPC_INSECURE": "true"}, {"host": "0.0.0.0"})
    assert config.grpc.bind_address == "0.0.0.0"
    assert config.http.bind_address == "0.0.0.0"


def test_every_problem_is_told_at_once_naming_its_variable(tmp_path):
    problems = problems_of(
        {
            "SERVER_PORT": "eighty",
            "SERVER_GRPC_MAX_MSG_SIZE": "-1",
            "SERVER_HEALTHCHECK": "maybe",
            "SERVER_PROMETHEUS_ADDRESS": "9090",
            "SERVER_TLS_STRATEGY": "ssl",
            "SERVER_LOGGER_FORMAT": "xml",
            "DEFAULT_TENANT_ID": "tenant",
            "ADMIN_PASSWORD": "hunter2",
            "SERVER_TLS_KEY_FILE": str(tmp_path / "absent.pem"),
            "DATABASE_URL": "mysql://db",
        },
        grpc_port=99999,
    )
    named = [
        "SERVER_PORT='eighty'",
        "SERVER_GRPC_PORT='99999' (from --grpc-port)",
        "SERVER_GRPC_MAX_MSG_SIZE",
        "SERVER_HEALTHCHECK",
        "SERVER_PROMETHEUS_ADDRESS",
        "SERVER_TLS_STRATEGY",
        "SERVER_LOGGER_FORMAT",
        "DEFAULT_TENANT_ID",
        "ADMIN_PASSWORD",
        "SERVER_TLS_KEY_FILE",
        "DATABASE_URL",
    ]
    assert len(problems) == len(named), problems
    for name in named:
        assert any(problem.startswith(name) for problem in problems), name
    assert "hunter2" not in "".join(problems)


def test_unknown_name_in_the_file_is_refused(tmp_path):
    file = tmp_path / "broadaxe.toml"
    file.write_text("PORT = 1\n")
    (problem,) = problems_of({}, config=str(file))
    assert problem.startswith("PORT (from file")


def test_secrets_are_hidden_in_repr():
    config = load_config(
        {
            "ADMIN_PASSWORD": "Visible123",
            "DATABASE_URL": "postgresql://user:hidden@db/x",
            "SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET": base64.b64encode(generate_jwt_keyset()).decode(),
        }
    )
    assert config.jwt_keyset is not None
    assert config.is_embedded is False
    for secret in ("Visible123", "hidden", "PrivateKey"):
        assert secret not in repr(config)


def test_config_is_frozen():
    config = load_config({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.grpc = None
    assert isinstance(config, ServerConfig)


# ---------------------------------------------------------------- TLS


def test_no_certificate_on_loopback_is_plaintext_and_said():
    config = load_config({})
    assert config.grpc.tls.strategy == "none"
    assert any("without TLS" in notice for notice in config.notices)


def test_no_certificate_on_an_outside_address_is_refused_unless_asked_for():
    (problem,) = problems_of({"SERVER_GRPC_BIND_ADDRESS": "0.0.0.0"})
    assert problem.startswith("SERVER_TLS_STRATEGY")
    for asked in ({"SERVER_GRPC_INSECURE": "t"}, {"SERVER_TLS_STRATEGY": "none"}):
        config = load_config({"SERVER_GRPC_BIND_ADDRESS": "0.0.0.0", **asked})
        assert config.grpc.tls.strategy == "none"


def test_certificate_alone_means_tls():
    tls = load_config({"SERVER_TLS_CERT": CERTIFICATE, "SERVER_TLS_KEY": KEY}).grpc.tls
    assert tls.strategy == "tls"
    assert tls.certificate == SERVER.certificate.strip()
    assert KEY not in repr(tls)


def test_pem_may_be_base64_or_have_escaped_line_breaks():
    encoded = base64.b64encode(SERVER.certificate).decode()
    tls = load_config({"SERVER_TLS_CERT": encoded, "SERVER_TLS_KEY": KEY.replace("\n", "\\n")}).grpc.tls
    assert tls.certificate == SERVER.certificate
    assert tls.key.strip() == SERVER.key.strip()


def test_unreadable_or_foreign_tls_material_is_refused():
    other = AUTHORITY.sign("other")
    (problem,) = problems_of({"SERVER_TLS_CERT": CERTIFICATE, "SERVER_TLS_KEY": other.key.decode()})
    assert problem.startswith("SERVER_TLS_KEY: does not belong")
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    problems = problems_of(
        {"SERVER_TLS_CERT": broken, "SERVER_TLS_KEY": broken, "SERVER_TLS_ROOT_CA": broken}
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "SERVER_TLS_CERT",
        "SERVER_TLS_ROOT_CA",
        "SERVER_TLS_KEY",
    ]


def test_mtls_needs_certificate_key_and_root():
    problems = problems_of({"SERVER_TLS_STRATEGY": "mtls"})
    assert [problem.split(" ")[0] for problem in problems] == [
        "SERVER_TLS_CERT",
        "SERVER_TLS_KEY",
        "SERVER_TLS_ROOT_CA",
    ]


def test_value_and_file_together_are_refused(tmp_path):
    (tmp_path / "c.pem").write_text(CERTIFICATE)
    problems = problems_of(
        {
            "SERVER_TLS_CERT": CERTIFICATE,
            "SERVER_TLS_CERT_FILE": str(tmp_path / "c.pem"),
            "SERVER_TLS_KEY": KEY,
        }
    )
    assert problems == ("SERVER_TLS_CERT and SERVER_TLS_CERT_FILE: both are set, give one of them",)


# ---------------------------------------------------------------- keysets


def test_keysets_are_read_from_file_or_raw(tmp_path):
    private = generate_jwt_keyset()
    path = tmp_path / "private.json"
    path.write_bytes(private)
    from_file = load_config({"SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET_FILE": str(path)}).jwt_keyset
    raw = load_config({"SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET": base64.b64encode(private).decode()}).jwt_keyset
    assert from_file is not None
    assert raw is not None
    assert from_file.signing_id == raw.signing_id
    assert from_file.verifying == raw.verifying


def test_bad_keysets_are_refused_naming_the_variable_and_no_key():
    private = generate_jwt_keyset().decode()
    problems = problems_of(
        {
            "SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET": private,
            "SERVER_ENCRYPTION_JWT_PUBLIC_KEYSET": generate_jwt_keyset().decode(),
            "SERVER_ENCRYPTION_MASTER_KEYSET": private,
        }
    )
    assert problems[0].startswith("SERVER_ENCRYPTION_JWT_PUBLIC_KEYSET: does not hold")
    assert problems[1].startswith("SERVER_ENCRYPTION_MASTER_KEYSET: key")
    (problem,) = problems_of({"SERVER_ENCRYPTION_JWT_PUBLIC_KEYSET": private})
    assert problem.startswith("SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET or")
    (problem,) = problems_of(
        {"SERVER_ENCRYPTION_JWT_PRIVATE_KEYSET": '{"primaryKeyId": 1, "key": [{"keyData": {}}]}'}
    )
    assert "Tink" in problem


def test_keysets_are_made_once_in_the_data_directory_and_private(tmp_path):
    first = open_keysets(tmp_path, None, None)
    again = open_keysets(tmp_path, None, None)
    assert first.jwt.signing_id == again.jwt.signing_id
    assert first.master == again.master
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_configured_keyset_leaves_the_data_directory_alone(tmp_path):
    jwt = parse_jwt_keyset(generate_jwt_keyset())
    master = load_config({"SERVER_ENCRYPTION_MASTER_KEYSET": generate_master_keyset().decode()}).master_keyset
    keysets = open_keysets(tmp_path, jwt, master)
    assert keysets.jwt is jwt
    assert keysets.master is master
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- retention and limits of tenants


def test_retention_is_read() -> None:
    assert load_config({}).retention == RetentionConfig()
    config = load_config(
        {
            "SERVER_LIMITS_DEFAULT_TENANT_RETENTION_PERIOD": "36h",
            "SERVER_ENABLE_DATA_RETENTION": "false",
            "SERVER_ENABLE_WORKER_RETENTION": "true",
        }
    )
    assert config.retention == RetentionConfig(False, True, 36 * 3_600_000_000)
    for value, text in (("30m", "from 1h to 87600h"), ("soon", "expected a duration such as 720h")):
        (problem,) = problems_of({"SERVER_LIMITS_DEFAULT_TENANT_RETENTION_PERIOD": value})
        assert problem.startswith(f"SERVER_LIMITS_DEFAULT_TENANT_RETENTION_PERIOD={value!r}: ")
        assert text in problem


def test_limits_of_tenants_are_off_until_they_are_asked_for() -> None:
    assert load_config({"SERVER_LIMITS_DEFAULT_EVENT_LIMIT": "1"}).limits == {}
    limits = load_config(
        {
            "SERVER_ENFORCE_LIMITS": "true",
            "SERVER_LIMITS_DEFAULT_EVENT_LIMIT": "10",
            "SERVER_LIMITS_DEFAULT_EVENT_WINDOW": "1h",
            "SERVER_LIMITS_DEFAULT_WORKER_LIMIT": "-1",
            "SERVER_LIMITS_DEFAULT_CRON_ALARM_LIMIT": "-1",
        }
    ).limits
    event, cron, runs = (limits[resource] for resource in (Resource.EVENT, Resource.CRON, Resource.TASK_RUN))
    assert (event.limit, event.alarm, event.window_us) == (10, 10, 3_600_000_000)
    assert (cron.limit, cron.alarm, cron.window_us) == (5, None, None)
    assert (runs.limit, runs.alarm, runs.window_us) == (2_000, 1_500, 86_400_000_000)
    assert Resource.WORKER not in limits
    (problem,) = problems_of({"SERVER_LIMITS_DEFAULT_EVENT_LIMIT": "many"})
    assert problem == "SERVER_LIMITS_DEFAULT_EVENT_LIMIT='many': expected a whole number"
