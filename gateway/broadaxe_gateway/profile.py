"""The local profile: how the SDK and the CLI on this machine find the server without any configuration.

Writes one file, `${BROADAXE_HOME:-~/.broadaxe}/profiles/local.json`, mode 0600. The server started last on a machine owns it; it stays when the
server stops, so that workers waiting for a restart keep their address and token.
"""

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from broadaxe_gateway.datadir import write_private
from broadaxe_gateway.tokens import TokenService, Unauthenticated

logger = logging.getLogger("broadaxe.profile")

TOKEN_NAME = "local profile"  # noqa: S105 - the name under which it is stored
RENEW_BEFORE_SECONDS = 30 * 24 * 3600
"""A token with less left than this is replaced at start, so that it does not end under a running worker."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a client on this machine needs."""

    token: str = field(repr=False)
    grpc_address: str
    server_url: str
    tls_strategy: str
    pid: int
    tls_root_ca_file: str = ""
    """Whom to trust beyond public authorities; empty for nobody."""
    tls_server_name: str = ""


def read_token(path: Path) -> str:
    """The token of the profile that is there; empty if there is none to read."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError):
        return ""
    token = raw.get("token", "") if isinstance(raw, dict) else ""
    return token if isinstance(token, str) else ""


async def choose_token(path: Path, tokens: TokenService, tenant_id: str, now: float) -> str:
    """The present profile's token while this server takes it for this tenant and it lasts, else a new one."""
    present = read_token(path)
    if present:
        try:
            identity = await tokens.verify(present)
        except Unauthenticated as error:
            logger.info("the local profile's token is replaced: %s", error.reason)
        else:
            lasts = identity.expires_at / 1_000_000 - now > RENEW_BEFORE_SECONDS
            if lasts and identity.tenant_id == tenant_id:
                return present
    return await tokens.issue(tenant_id, TOKEN_NAME)


def write_profile(path: Path, profile: Profile, root_ca: bytes = b"") -> None:
    """Put the profile in place, and beside it the authority to trust, if any. A home that cannot be written is no reason not to serve: it is logged, and clients need a token of their own."""
    try:
        if root_ca:
            root_path = path.with_name("local-root-ca.pem")
            write_private(root_path, root_ca)
            profile = replace(profile, tls_root_ca_file=str(root_path))
        write_private(path, json.dumps(asdict(profile), indent=2).encode())
    except OSError as error:
        logger.warning(
            "the local profile %s cannot be written (%s): clients on this machine need BROADAXE_CLIENT_TOKEN",
            path,
            error.strerror or error,
        )
