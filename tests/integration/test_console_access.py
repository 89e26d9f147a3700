"""Who gets into the console, and what keeps everybody else out: over HTTP, on both databases."""

import re
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import select

from console.web import access
from console.web.app import create_app
from console.web.headers import HEADERS
from console.web.pages import login
from console.web.passwords import hashed
from console.web.rates import Rate
from db import accounts, jobs
from db.accounts import SCOPES, Scope
from db.session import transaction
from db.tables import AccountRole, Audit, WebSession
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.helpers import free_port, wait_for

PASSWORD = "correct horse battery"
BROWSER = {"Accept": "text/html"}
ELSEWHERE = {"X-Forwarded-For": "198.51.100.7"}

Browser = Callable[..., httpx.Client]


@pytest.fixture
def address(database_url: str, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a console of the test's own listens; nobody has asked it anything."""
    for module, name in [
        (access, "requests"),
        (access, "unknown"),
        (login, "_of_pair"),
        (login, "_of_account"),
        (login, "_of_address"),
    ]:
        old: Rate = getattr(module, name)
        monkeypatch.setattr(module, name, Rate(old.times, old.per_s))
    port = free_port()
    hilum_env(console_port=port)
    server = uvicorn.Server(uvicorn.Config(create_app(), port=port, log_config=None, server_header=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser(address: str) -> Iterator[Browser]:
    """Call it for a browser that has not logged in; with headers that it always sends."""
    opened: list[httpx.Client] = []

    def one(**headers: str) -> httpx.Client:
        opened.append(httpx.Client(base_url=address, headers=BROWSER | headers, timeout=60, trust_env=False))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


_numbers = count()
_KEPT = hashed(PASSWORD)


def person(role: AccountRole = AccountRole.READER) -> str:
    """The name of an account with PASSWORD."""
    with transaction() as session:
        account = accounts.add(session, f"person{next(_numbers)}", role)
        accounts.use_link(session, accounts.new_link(session, account), _KEPT)
        return account.name


def token(role: AccountRole, *scopes: Scope) -> dict[str, str]:
    name = person(role)
    with transaction() as session:
        account = accounts.find(session, name)
        secret = accounts.new_token(session, account, "test", scopes, days=1)
    return {"Authorization": f"Bearer {secret}"}


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password})


def csrf(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get("/").text)
    assert found is not None
    return found[1]


def test_nothing_answers_without_access_but_health_and_login(browser: Browser) -> None:
    client = browser(**ELSEWHERE)
    assert client.get("/healthz").json() == {"console": "lives"}
    assert client.get("/login").status_code == 200
    for path in ("/", "/metrics", "/readyz", "/docs", "/openapi.json", "/nothing", "/LOGIN", "//login"):
        page = client.get(path)
        assert (page.status_code, page.headers.get("location")) == (303, "/login"), path
        program = client.get(path, headers={"Accept": "*/*"})
        assert (program.status_code, program.headers["www-authenticate"]) == (401, "Bearer"), path
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/link/../metrics"):
        assert client.get(path).status_code in (303, 404), path
    assert client.post("/", data={"a": "b"}).status_code == 401


def routes(among: Any = None) -> list[Any]:
    """Every route of the console, also of routers within routers; only the static files are none."""
    found: list[Any] = []
    candidates: list[Any] = create_app().routes if among is None else among
    for each in candidates:
        if hasattr(each, "effective_candidates"):
            found += routes(each.effective_candidates())
        elif each.path != "/static":
            found.append(each)
    return found


def needed(route: Any) -> set[Scope]:
    checks = [each.call for each in route.dependant.dependencies]
    return {check.needs for check in checks if hasattr(check, "needs")}


def test_every_route_says_what_it_takes_or_is_named_as_open() -> None:
    without = {route.path for route in routes() if not needed(route)}
    assert without == {"/healthz", "/login", "/link/{secret}"}
    assert len(routes()) > len(without)


@pytest.mark.parametrize("role", AccountRole)
def test_each_role_gets_what_its_scopes_open_and_no_more(browser: Browser, role: AccountRole) -> None:
    client = browser()
    log_in(client, person(role))
    for route in routes():
        if "GET" in route.methods and (wanted := needed(route)):
            answer = client.get(route.path)
            assert (answer.status_code == 403) == (not wanted <= SCOPES[role]), route.path


def test_the_right_password_opens_a_session_and_logging_out_ends_it(browser: Browser) -> None:
    client, name = browser(), person()
    answer = log_in(client, name.upper())
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert f"<strong>{name}</strong>" in client.get("/").text
    kept = client.cookies["hilum"]
    assert client.post("/logout", data={"csrf": csrf(client)}).status_code == 303
    client.cookies.set("hilum", kept)
    assert client.get("/").status_code == 303
    with transaction() as session:
        assert session.scalars(select(Audit.action).order_by(Audit.id)).all() == ["login", "logout"]


def test_with_https_the_cookie_is_for_this_host_and_for_https_alone(
    browser: Browser, hilum_env: SettingsChange
) -> None:
    hilum_env(console_url="https://hilum.example")
    answer = log_in(browser(Origin="https://hilum.example"), person())
    assert answer.headers["set-cookie"].startswith("__Host-hilum=")
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"]


@pytest.mark.parametrize("password", ["", "mistaken", PASSWORD + " ", "x" * 3000])
def test_a_wrong_password_opens_nothing_and_is_not_repeated(browser: Browser, password: str) -> None:
    client = browser()
    answer = log_in(client, person(), password)
    assert answer.status_code in (403, 422)
    assert not password or password not in answer.text
    assert client.get("/").status_code == 303


def test_an_account_without_a_password_cannot_log_in(browser: Browser) -> None:
    with transaction() as session:
        accounts.add(session, "fresh", AccountRole.ADMINISTRATOR)
    assert log_in(browser(), "fresh", "").status_code == 403
    assert log_in(browser(), "nobody", "").status_code == 403


def test_a_disabled_account_is_thrown_out(browser: Browser) -> None:
    client, name = browser(), person()
    log_in(client, name)
    with transaction() as session:
        accounts.disable(session, accounts.find(session, name))
    assert client.get("/").status_code == 303
    assert log_in(client, name).status_code == 403


def test_a_session_that_was_put_into_a_browser_is_not_the_one_after_the_login(browser: Browser) -> None:
    attacker, victim = browser(), browser()
    log_in(attacker, person())
    planted = attacker.cookies["hilum"]
    victim.cookies.set("hilum", planted)
    name = person()
    cookie = log_in(victim, name).headers["set-cookie"]
    assert planted not in cookie
    assert attacker.get("/").status_code == 303, "the planted session has ended"
    made_up = browser()
    made_up.cookies.set("hilum", "chosen-by-the-attacker")
    assert "chosen-by-the-attacker" not in log_in(made_up, name).headers["set-cookie"]


def test_a_change_needs_what_only_our_own_page_knows(browser: Browser) -> None:
    client, other = browser(), browser()
    log_in(client, person())
    log_in(other, person())
    for shown in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": csrf(other)}, {"csrf": "é"}):
        assert client.post("/logout", data=shown).status_code == 403, shown
    assert client.get("/").status_code == 200
    assert client.post("/logout", headers={"X-CSRF-Token": csrf(client)}).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_cannot_change_anything_or_log_anybody_in(
    browser: Browser, headers: dict[str, str]
) -> None:
    client, name = browser(), person()
    form = {"name": name, "password": PASSWORD}
    assert client.post("/login", data=form, headers=headers).status_code == 403
    log_in(client, name)
    assert client.post("/logout", data={"csrf": csrf(client)}, headers=headers).status_code == 403
    assert client.get("/").status_code == 200


def test_our_own_pages_may_change_things(browser: Browser, address: str) -> None:
    client = browser(**{"Origin": address, "Sec-Fetch-Site": "same-origin"})
    assert log_in(client, person()).status_code == 303


def test_wrong_passwords_close_the_account_for_their_address_alone(browser: Browser) -> None:
    name = person()
    guesser = browser(**ELSEWHERE)
    assert [log_in(guesser, name, "wrong").status_code for _ in range(5)] == [403] * 5
    answer = log_in(guesser, name)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 901
    assert log_in(browser(), name).status_code == 303
    with transaction() as session:
        refused = session.scalars(select(Audit).where(Audit.action == "login refused")).all()
        assert {(each.actor, each.detail) for each in refused} == {(name, "198.51.100.7")}


def test_right_passwords_are_not_counted(browser: Browser) -> None:
    name = person()
    assert [log_in(browser(), name).status_code for _ in range(7)] == [303] * 7


def test_too_many_requests_wait(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "requests", Rate(3, 60))
    shown = token(AccountRole.READER, Scope.READ)
    client = browser()
    assert [client.get("/", headers=shown).status_code for _ in range(4)] == [200] * 3 + [429]
    monkeypatch.setattr(access, "unknown", Rate(3, 60))
    guess = {"Authorization": "Bearer hilum_guess", "Accept": "*/*"} | ELSEWHERE
    assert [client.get("/", headers=guess).status_code for _ in range(4)] == [401] * 3 + [429]


def test_a_token_opens_what_it_is_for_alone(browser: Browser) -> None:
    client = browser(**ELSEWHERE)
    metrics = token(AccountRole.ADMINISTRATOR, Scope.METRICS)
    assert client.get("/metrics", headers=metrics).status_code == 200
    assert client.get("/", headers=metrics).status_code == 403
    read = token(AccountRole.READER, Scope.READ)
    assert client.get("/", headers=read).status_code == 200
    assert client.get("/metrics", headers=read).status_code == 403
    for scheme in ("Basic", "bearer x", "Bear"):
        broken = {"Authorization": read["Authorization"].replace("Bearer", scheme), "Accept": "*/*"}
        assert client.get("/", headers=broken).status_code == 401


def test_every_answer_has_the_headers(browser: Browser) -> None:
    client = browser()
    for path in ("/healthz", "/login", "/", "/nothing", "/metrics"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    assert "unsafe" not in HEADERS["content-security-policy"]
    page = client.get("/login").text
    assert "<script" not in page and "style=" not in page and "http:" not in page


def test_a_long_form_of_a_stranger_is_not_read(browser: Browser) -> None:
    client = browser()
    assert client.post("/login", data={"name": "a", "password": "x" * 70_000}).status_code == 413
    assert client.post("/login", content=iter([b"name=a"])).status_code == 413


def test_a_link_is_for_choosing_a_password_once(browser: Browser) -> None:
    with transaction() as session:
        secret = accounts.first_link(session)
    path, client = f"/link/{secret}", browser()
    assert "<strong>admin</strong>" in client.get(path).text
    assert client.get(path).status_code == 200, "to look at it does not use it up"
    for one, two in (("short", "short"), ("a" * 20, "a" * 20), (PASSWORD, PASSWORD + "!")):
        answer = client.post(path, data={"password": one, "again": two})
        assert answer.status_code == 422
        assert one not in answer.text
    assert client.post(path, data={"password": PASSWORD, "again": PASSWORD}).status_code == 303
    assert "<strong>admin</strong>" in client.get("/").text
    assert client.get(path).status_code == 404
    assert client.post(path, data={"password": "another " * 3, "again": "another " * 3}).status_code == 404
    assert log_in(browser(), "admin").status_code == 303
    with transaction() as session:
        assert len(session.scalars(select(WebSession)).all()) == 2


def test_watchers_on_this_machine_need_no_token_and_through_a_proxy_they_do(
    browser: Browser, valkey: Broker, hilum_env: SettingsChange
) -> None:
    hilum_env(broker_url=valkey.url).store.mkdir(parents=True)
    client = browser(Accept="*/*")
    assert client.get("/readyz").json() == {"ready": True, "missing": {}}
    for headers in (ELSEWHERE, {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}):
        assert client.get("/readyz", headers=headers).status_code == 401
    with transaction() as session:
        jobs.want(session, "worker.prepare", "1.2.3", study_uid=None, due_in_s=-60)
    told = client.get("/metrics").text
    assert 'hilum_jobs{kind="worker.prepare",state="waiting"} 1.0' in told
    assert 'hilum_queue_messages{queue="prepare"} 0.0' in told
    assert 'hilum_studies{state="delivered"} 0.0' in told
    age = re.search(r'hilum_oldest_due_seconds\{kind="worker.prepare"\} ([0-9.e+]+)', told)
    assert age and 60 <= float(age[1]) < 120


def test_what_is_missing_is_named(browser: Browser, hilum_env: SettingsChange) -> None:
    hilum_env(broker_url="redis://127.0.0.1:1/0")
    answer = browser(Accept="*/*").get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["missing"]) == {"broker", "store"}
    assert "hilum_broker_up 0.0" in browser().get("/metrics").text


def test_a_database_that_is_away_is_said_in_a_sentence(browser: Browser, hilum_env: SettingsChange) -> None:
    client, name = browser(), person()
    log_in(client, name)
    hilum_env(database_url="postgresql+psycopg://hilum@127.0.0.1:1/hilum")
    answer = client.get("/")
    assert answer.status_code == 503
    assert "The database does not answer." in answer.text
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz", headers={"Accept": "*/*"}).status_code == 503
    assert log_in(client, name).status_code == 503
