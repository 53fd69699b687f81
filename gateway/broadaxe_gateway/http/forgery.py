"""Refuses requests that a page of another site has made a browser send (cross-site request forgery). Pure.

What changes something for a person must show two things: that it comes from this server's own pages, as far as the browser tells, and a
token that only they can know. API tokens need neither: no browser sends those by itself.
"""

from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import Request

from broadaxe_gateway.http.errors import RequestRefused
from broadaxe_gateway.sessions import Person, is_csrf_token

HEADER = "X-CSRF-Token"


def check_not_forged(request: Request, person: Person, server_url: str) -> None:
    """Raises `RequestRefused` (403) unless a signed-in person's own page sent this."""
    check_same_site(request, server_url)
    if not is_csrf_token(person, request.headers.get(HEADER, "")):
        raise RequestRefused(
            HTTPStatus.FORBIDDEN,
            f"the header {HEADER} is missing or wrong: with a session cookie, send the value of the cookie whose name ends in _csrf",
        )


def check_same_site(request: Request, server_url: str) -> None:
    """Raises `RequestRefused` (403) for what a browser says comes from another site. Programs that are no browsers say nothing."""
    fetch_site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    if fetch_site not in ("same-origin", "none") or (
        origin is not None and not _is_own(origin, request, server_url)
    ):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "this request comes from a page of another site")


def _is_own(origin: str, request: Request, server_url: str) -> bool:
    """Whether an origin is this server, by the address that it is configured with or that the request was sent to."""
    try:
        parts, own = urlsplit(origin), urlsplit(server_url)
    except ValueError:
        return False
    if not parts.netloc:
        return False
    return (parts.scheme, parts.netloc) == (own.scheme, own.netloc) or parts.netloc == request.headers.get(
        "host"
    )
