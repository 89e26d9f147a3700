"""Log in, log out, and choose a password by a one-time link."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

import db.audit
from console.web import access, answers, passwords
from console.web.access import Who, needs
from console.web.rates import Rate
from db import accounts
from db.accounts import Scope
from db.session import transaction
from db.tables import Account
from hilum.settings import settings

router = APIRouter(include_in_schema=False)

_A_WHILE_S = 900
_of_pair = Rate(5, _A_WHILE_S)
"""Wrong passwords of one account from one address."""
_of_account = Rate(50, _A_WHILE_S)
_of_address = Rate(50, _A_WHILE_S)
"""More, so that nobody is kept out by what another does, and guessing goes on for centuries."""
_WRONG = "The name or the password is wrong, or the account is disabled."
_NO_LINK = "This link was used before, or it is too old. `hilum accounts link NAME` prints another."

Text = Annotated[str, Form(max_length=2000)]


@router.get("/login")
def form(request: Request) -> Response:
    return answers.page(request, "login")


@router.post("/login")
def log_in(request: Request, name: Text = "", password: Text = "") -> Response:
    """Begin a session of its own for whoever shows an account's password; after some wrong ones, wait."""
    name = name.strip().casefold()
    tries = _tries(request, name)
    if wait_s := max(rate.wait_s(key) for rate, key in tries):
        because = f"Too many wrong passwords. Try again in {wait_s / 60 + 1:.0f} minutes."
        later = answers.page(request, "login", status=429, because=because)
        later.headers["Retry-After"] = str(int(wait_s) + 1)
        return later
    for rate, key in tries:  # before the password is looked at, or many at once would all be let through
        rate.count(key)
    with transaction() as session:
        account = accounts.named(session, name)
    is_right = passwords.matches(password, account.password if account else "")
    answer = _began(request, account) if is_right and account else None
    if answer is None:
        _note(name if account else "", "login refused", access.address(request))
        return answers.page(request, "login", status=403, because=_WRONG)
    for rate, key in tries:
        rate.undo(key)
    return answer


@router.get("/link/{secret}")
def choose(request: Request, secret: str) -> Response:
    """The form only: programs that look at links before people do must not use them up."""
    with transaction() as session:
        account = accounts.of_link(session, secret)
    if account is None:
        return answers.refusal(request, 404, _NO_LINK)
    return answers.page(request, "link", name=account.name, least=passwords.LEAST_CHARACTERS)


@router.post("/link/{secret}")
def chosen(request: Request, secret: str, password: Text = "", again: Text = "") -> Response:
    """Take the password, and log in by it."""
    with transaction() as session:
        account = accounts.of_link(session, secret)
    if account is None:
        return answers.refusal(request, 404, _NO_LINK)
    if because := passwords.fault(password) or ("" if password == again else "The two are not the same."):
        least = passwords.LEAST_CHARACTERS
        return answers.page(request, "link", status=422, name=account.name, least=least, because=because)
    kept = passwords.hashed(password)
    with transaction() as session:
        account = accounts.use_link(session, secret, kept)
        if account is not None:
            db.audit.note(session, actor=account.name, action="password chosen")
    answer = _began(request, account) if account else None
    return answer or answers.refusal(request, 404, _NO_LINK)


@router.post("/logout", dependencies=[needs(Scope.READ)])
def log_out(who: Who) -> Response:
    with transaction() as session:
        accounts.end_session(session, who.session)
        db.audit.note(session, actor=who.name, action="logout")
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(access.cookie_name(), path="/", httponly=True, secure=access.is_secure())
    return answer


def _began(request: Request, account: Account) -> Response | None:
    """A session with a secret of its own, whatever the browser showed before; that one ends."""
    before = request.cookies.get(access.cookie_name(), "")
    hours = settings().console_session_hours
    with transaction() as session:
        accounts.end_session(session, before)
        secret = accounts.begin_session(session, account.id, account.password, hours=hours)
        if secret is None:
            return None
        db.audit.note(session, actor=account.name, action="login", detail=access.address(request))
    answer = RedirectResponse("/", 303)
    access.set_cookie(answer, secret)
    return answer


def _tries(request: Request, name: str) -> list[tuple[Rate, str]]:
    address = access.address(request)
    return [(_of_pair, f"{name} {address}"), (_of_account, name), (_of_address, address)]


def _note(actor: str, action: str, detail: str) -> None:
    with transaction() as session:
        db.audit.note(session, actor=actor, action=action, detail=detail)
