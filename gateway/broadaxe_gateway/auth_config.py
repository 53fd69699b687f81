"""Settings of people: how they sign in, what they may do by themselves, and how often. Reads nothing but the `SettingReader` it is given."""

import ipaddress
import re
from dataclasses import dataclass, field

from broadaxe_gateway.settings import SettingReader

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_COOKIE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
MIN_SECRET_LENGTH = 16


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """People, as opposed to API tokens."""

    is_basic_auth_enabled: bool = True
    """SERVER_AUTH_BASIC_AUTH_ENABLED: people register and sign in by e-mail address and password."""
    sets_email_verified: bool = False
    """SERVER_AUTH_SET_EMAIL_VERIFIED: take the address of who registers for verified. There is no other way to verify one: without it,
    who registers can do nothing yet."""
    email_domains: tuple[str, ...] = ()
    """SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS, separated by commas or blanks: only addresses of these may register. Empty: any may."""
    cookie_name: str = "hatchet"
    """SERVER_AUTH_COOKIE_NAME."""
    cookie_domain: str = ""
    """SERVER_AUTH_COOKIE_DOMAIN. Empty: the host that set the cookie, and no other."""
    cookie_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """SERVER_AUTH_COOKIE_SECRETS, separated by blanks: the first signs cookies, all are accepted. Empty: made of the master keyset."""
    is_cookie_insecure: bool = False
    """SERVER_AUTH_COOKIE_INSECURE: true lets browsers send the cookie over plain HTTP."""
    allows_signup: bool = True
    """SERVER_ALLOW_SIGNUP."""
    allows_invites: bool = True
    """SERVER_ALLOW_INVITES."""
    allows_create_tenant: bool = True
    """SERVER_ALLOW_CREATE_TENANT."""
    allows_change_password: bool = True
    """SERVER_ALLOW_CHANGE_PASSWORD."""
    max_pending_invites: int = 100
    """SERVER_MAX_PENDING_INVITES, of one tenant."""
    requests_per_second: float = 10.0
    """BROADAXE_HTTP_RATE_LIMIT: of one client to one of the operations that are limited, in a burst of as many. 0: no limit."""
    trusted_proxies: tuple[Network, ...] = ()
    """BROADAXE_TRUSTED_PROXIES, addresses or networks separated by commas or blanks: whose X-Forwarded-For tells the client's address."""


def read_auth(reader: SettingReader, notices: list[str]) -> AuthConfig:
    """The settings of people; mistakes are noted in `reader`, what is asked for and not there in `notices`."""
    default = AuthConfig()
    for name, provider in (
        ("SERVER_AUTH_GOOGLE_ENABLED", "Google"),
        ("SERVER_AUTH_GITHUB_ENABLED", "GitHub"),
    ):
        if reader.flag(name):
            notices.append(f"{name} has no effect: signing in by {provider} is not available")

    def flag(name: str, otherwise: bool) -> bool:
        value = reader.flag(name)
        return otherwise if value is None else value

    limit = reader.number("BROADAXE_HTTP_RATE_LIMIT", low=0, high=1_000_000)
    invites = reader.integer("SERVER_MAX_PENDING_INVITES", low=0, high=10_000)
    return AuthConfig(
        is_basic_auth_enabled=flag("SERVER_AUTH_BASIC_AUTH_ENABLED", default.is_basic_auth_enabled),
        sets_email_verified=flag("SERVER_AUTH_SET_EMAIL_VERIFIED", default.sets_email_verified),
        email_domains=_email_domains(reader),
        cookie_name=_cookie_name(reader) or default.cookie_name,
        cookie_domain=_cookie_domain(reader),
        cookie_secrets=_cookie_secrets(reader),
        is_cookie_insecure=flag("SERVER_AUTH_COOKIE_INSECURE", default.is_cookie_insecure),
        allows_signup=flag("SERVER_ALLOW_SIGNUP", default.allows_signup),
        allows_invites=flag("SERVER_ALLOW_INVITES", default.allows_invites),
        allows_create_tenant=flag("SERVER_ALLOW_CREATE_TENANT", default.allows_create_tenant),
        allows_change_password=flag("SERVER_ALLOW_CHANGE_PASSWORD", default.allows_change_password),
        max_pending_invites=default.max_pending_invites if invites is None else invites,
        requests_per_second=default.requests_per_second if limit is None else limit,
        trusted_proxies=_networks(reader),
    )


def _items(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def _email_domains(reader: SettingReader) -> tuple[str, ...]:
    name = "SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS"
    domains = [item.lower().removeprefix("@") for item in _items(reader.text(name))]
    if any(not _DOMAIN.fullmatch(domain) for domain in domains):
        reader.refuse(name, "expected domains such as example.com, separated by commas")
    return tuple(domains)


def _cookie_name(reader: SettingReader) -> str | None:
    name = reader.text("SERVER_AUTH_COOKIE_NAME")
    if name is not None and not _COOKIE_NAME.fullmatch(name):
        reader.refuse("SERVER_AUTH_COOKIE_NAME", "expected 1 to 64 letters, digits, '_', '-' and '.'")
        return None
    return name


def _cookie_domain(reader: SettingReader) -> str:
    """Without a port, which cookies do not know. Browsers take neither localhost nor an address for a domain: the host alone gets the cookie then."""
    domain = (reader.text("SERVER_AUTH_COOKIE_DOMAIN") or "").lower().lstrip(".")
    host, colon, port = domain.rpartition(":")
    if colon and port.isdecimal():
        domain = host
    if domain and not _DOMAIN.fullmatch(domain):
        reader.refuse("SERVER_AUTH_COOKIE_DOMAIN", "expected a domain such as example.com")
        return ""
    is_address = domain.replace(".", "").isdecimal()
    return "" if is_address or "." not in domain else domain


def _cookie_secrets(reader: SettingReader) -> tuple[bytes, ...]:
    secrets = (reader.secret("SERVER_AUTH_COOKIE_SECRETS") or "").split()
    if any(len(secret) < MIN_SECRET_LENGTH for secret in secrets):
        reader.refuse(
            "SERVER_AUTH_COOKIE_SECRETS",
            f"expected secrets of at least {MIN_SECRET_LENGTH} characters, separated by blanks",
            is_secret=True,
        )
    return tuple(secret.encode() for secret in secrets)


def _networks(reader: SettingReader) -> tuple[Network, ...]:
    try:
        return tuple(
            ipaddress.ip_network(item, strict=False)
            for item in _items(reader.text("BROADAXE_TRUSTED_PROXIES"))
        )
    except ValueError as error:
        reader.refuse(
            "BROADAXE_TRUSTED_PROXIES", f"expected addresses or networks such as 10.0.0.0/8: {error}"
        )
        return ()
