"""Who asks, and whether they may: nothing answers without access but what is named here.

`Guard` stands before all routes: it finds out who asks, by the cookie of a session or by an API token, and
lets nobody else through. `needs` says at each route what it takes; a test finds a route without.
"""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from math import ceil
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from console.web import answers
from console.web.rates import Rate
from db import accounts
from db.accounts import Scope as May
from db.session import transaction
from hilum.settings import settings

OPEN = ("/healthz", "/login", "/link/", "/static/")
"""What answers without access: a path, or how paths begin."""
FOR_WATCHERS = ("/metrics", "/readyz")
"""What answers this machine itself, too."""
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
LONGEST_FORM_BYTES = 65_536
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

requests = Rate(1200, 60)
"""Of one account, or of one address without."""
unknown = Rate(60, 60)
"""Tokens and sessions that are none, of one address."""


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str
    may: frozenset[May]
    session: str = field(default="", repr=False)
    """The secret of the browser's session; empty for a program's token."""

    @property
    def csrf(self) -> str:
        """What a form of ours carries, and nobody else can know: it hangs on the session's secret."""
        return hmac.new(self.session.encode(), b"csrf", sha256).hexdigest()


class Guard:
    """Lets a request through when it is known who asks, or when anybody may."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass; lets everything else through, with `request.state.caller`."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = await self._refusal(Request(scope))
            await (answer or self._app)(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _refusal(self, request: Request) -> Response | None:
        """What keeps this request out; None when it may pass."""
        request.state.caller = None
        path = request.url.path
        if path == "/healthz":
            return None
        if request.method not in _SAFE and not is_from_here(request):
            return answers.refusal(request, 403, "This came from another site.")
        if path in OPEN or path.startswith(tuple(each for each in OPEN if each.endswith("/"))):
            return _too_often(request, requests, address(request)) or _too_long(request)
        if wait := _too_often(request, unknown, address(request)):
            return wait
        try:
            caller = await run_in_threadpool(who, request)
        except DBAPIError:
            return answers.refusal(request, 503, "The database does not answer.")
        request.state.caller = caller
        if caller is not None:
            return _too_often(request, requests, caller.name)
        if path in FOR_WATCHERS and is_this_machine(request):
            return None
        return _unknown(request)


def who(request: Request) -> Caller | None:
    """Who shows a valid token, or else a valid session; None when nobody does."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    cookie = request.cookies.get(cookie_name(), "")
    with transaction() as session:
        if scheme:
            known = accounts.of_token(session, secret.strip()) if scheme.lower() == "bearer" else None
            return Caller(known.account.name, known.scopes) if known else None
        known = accounts.of_session(session, cookie) if cookie else None
    return Caller(known.account.name, known.scopes, cookie) if known else None


def needs(scope: May) -> Dependency:
    """What a route takes: a caller who may do this, and in a browser the session's own form."""

    async def check(request: Request) -> None:
        caller: Caller | None = request.state.caller
        is_watching = scope is May.METRICS and caller is None and is_this_machine(request)
        if not is_watching and (caller is None or scope not in caller.may):
            raise HTTPException(403, "Your account may not do this.")
        if caller is not None:
            await check_form(request, caller)

    check.needs = scope  # type: ignore[attr-defined]  # for the test that walks the routes
    dependency: Dependency = Depends(check)
    return dependency


async def check_form(request: Request, caller: Caller) -> None:
    """Raise HTTPException when a browser changes something without what only our own pages can send."""
    if request.method in _SAFE or not caller.session:
        return
    shown = request.headers.get(CSRF_HEADER) or (await request.form()).get(CSRF_FIELD)
    if not isinstance(shown, str) or not hmac.compare_digest(shown.encode(), caller.csrf.encode()):
        raise HTTPException(403, "The page was too old. Load it again and repeat what you did.")


def caller(request: Request) -> Caller:
    """Who asks, for a route that needs to know; raises HTTPException when nobody is known."""
    known: Caller | None = request.state.caller
    if known is None:
        raise HTTPException(401, "Log in first.")
    return known


Who = Annotated[Caller, Depends(caller)]


def address(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else ""


def is_this_machine(request: Request) -> bool:
    """Whether the request comes from this machine, and through no proxy on it."""
    try:
        is_loopback = ip_address(address(request)).is_loopback
    except ValueError:
        return False
    return is_loopback and not any(name in request.headers for name in _FORWARDED)


def is_from_here(request: Request) -> bool:
    """Whether a browser sends this from a page of ours; programs, which name no page, always do."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    ours = settings().console_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
    return origin is None or origin == ours


def is_secure() -> bool:
    """Whether browsers reach us by HTTPS."""
    return settings().console_address.startswith("https:")


def cookie_name() -> str:
    """With HTTPS one that no other host or path can set (RFC 6265bis 4.1.3.2)."""
    return "__Host-hilum" if is_secure() else "hilum"


def set_cookie(response: Response, secret: str) -> None:
    """Give the browser its session: not for scripts, and not with what other sites send."""
    response.set_cookie(cookie_name(), secret, httponly=True, samesite="lax", secure=is_secure(), path="/")


def _too_often(request: Request, rate: Rate, key: str) -> Response | None:
    wait_s = rate.wait_s(key)
    if rate is requests:
        rate.count(key)
    if not wait_s:
        return None
    answer = answers.refusal(request, 429, f"Too many requests. Try again in {ceil(wait_s)} s.")
    answer.headers["Retry-After"] = str(ceil(wait_s))
    return answer


def _too_long(request: Request) -> Response | None:
    """Refuses what a stranger sends that is no small form: it would be kept in memory."""
    said = request.headers.get("content-length", "" if "transfer-encoding" in request.headers else "0")
    if said.isdecimal() and int(said) <= LONGEST_FORM_BYTES:
        return None
    return answers.refusal(request, 413, "This is too long.")


def _unknown(request: Request) -> Response:
    """A browser is led to the login; a program is told to show a token."""
    if request.headers.get("authorization") or request.cookies.get(cookie_name()):
        unknown.count(address(request))
    if answers.wants_page(request) and request.method in _SAFE:
        return RedirectResponse("/login", 303)
    answer = answers.refusal(request, 401, "Log in, or send a token: Authorization: Bearer TOKEN.")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
