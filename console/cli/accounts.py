"""Commands about who may use the console in the browser, and its HTTP interface."""

from typing import Annotated

import typer

import db.accounts
from console.cli.studies import note
from console.cli.terminal import examples, out, require_a_site
from console.tables import add as add_row
from console.tables import moment, table
from db.accounts import LINK_HOURS, Scope
from db.session import transaction
from db.tables import Account, AccountRole
from hilum.settings import settings

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Say who may use the console.")
app.add_typer(group, name="accounts")

Named = Annotated[str, typer.Argument(metavar="NAME", help="the account's name")]


@group.command(epilog=examples("hilum accounts add marie", "hilum accounts add paul --role administrator"))
def add(
    name: Named,
    role: Annotated[
        AccountRole, typer.Option(help="reader: sees studies, says verdicts; administrator: everything")
    ] = AccountRole.READER,
) -> None:
    """Make an account, and print the link by which its person chooses a password."""
    require_a_site()
    with transaction() as session:
        account = db.accounts.add(session, name, role)
        note(session, "account add", None, f"{account.name}, {role}")
        secret = db.accounts.new_link(session, account)
    _print_link(account.name, secret)


@group.command("list", epilog=examples("hilum accounts list"))
def list_accounts() -> None:
    """List the accounts and the tokens of programs."""
    require_a_site()
    with transaction() as session:
        accounts, tokens = db.accounts.listed(session), db.accounts.tokens(session)
    people = table("Accounts", ["name", "role", "made", "state"])
    for each in accounts:
        add_row(people, each.name, each.role, moment(each.created_at), _state(each))
    out.print(people)
    programs = table("Tokens", ["number", "for", "account", "may", "until", "last used"], numbers=["number"])
    for token, name in tokens:
        used = moment(token.last_used_at) if token.last_used_at else "never"
        add_row(
            programs, str(token.id), token.name, name, ", ".join(token.scopes), moment(token.expires_at), used
        )
    if tokens:
        out.print(programs)


@group.command(epilog=examples("hilum accounts link marie"))
def link(name: Named) -> None:
    """Print a link by which an account's person chooses a new password, once; older links end."""
    require_a_site()
    with transaction() as session:
        account = db.accounts.find(session, name)
        secret = db.accounts.new_link(session, account)
        note(session, "account link", None, account.name)
    _print_link(account.name, secret)


@group.command(epilog=examples("hilum accounts disable marie"))
def disable(name: Named) -> None:
    """Log an account out everywhere and keep it out; its tokens are revoked, its verdicts stay."""
    require_a_site()
    with transaction() as session:
        account = db.accounts.find(session, name)
        db.accounts.disable(session, account)
        note(session, "account disable", None, account.name)
    out.print(f"{account.name} is disabled", markup=False, highlight=False)


@group.command(epilog=examples("hilum accounts enable marie"))
def enable(name: Named) -> None:
    """Let a disabled account log in again, by its old password."""
    require_a_site()
    with transaction() as session:
        account = db.accounts.find(session, name)
        db.accounts.enable(session, account)
        note(session, "account enable", None, account.name)
    out.print(f"{account.name} may log in again", markup=False, highlight=False)


@group.command(epilog=examples("hilum accounts token admin --for Prometheus --scope metrics"))
def token(
    name: Named,
    purpose: Annotated[str, typer.Option("--for", help="what it is for", min=1, max=64)],
    scope: Annotated[list[Scope], typer.Option(help="what it may do; may be given several times")],
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="for how long")] = 365,
) -> None:
    """Make a token for a program, and print it; it is not kept, and cannot be shown again.

    The program sends it with each request: Authorization: Bearer TOKEN.
    """
    require_a_site()
    with transaction() as session:
        account = db.accounts.find(session, name)
        secret = db.accounts.new_token(session, account, purpose, scope, days=days)
        note(session, "token", None, f"{account.name}, for {purpose}: {', '.join(scope)}")
    print(secret)  # noqa: T201 - for programs


@group.command(epilog=examples("hilum accounts revoke 3"))
def revoke(
    number: Annotated[int, typer.Argument(help="the token's number, of `hilum accounts list`")],
) -> None:
    """End a program's token, at once."""
    require_a_site()
    with transaction() as session:
        purpose = db.accounts.revoke(session, number)
        note(session, "token revoke", None, f"{number}, for {purpose}")
    out.print(f"revoked: the token for {purpose}", markup=False, highlight=False)


def _print_link(name: str, secret: str) -> None:
    out.print(f"{name} chooses a password here, once, within {LINK_HOURS} hours:", highlight=False)
    print(f"{settings().console_address}/link/{secret}")  # noqa: T201 - never wrapped


def _state(account: Account) -> str:
    if account.disabled_at:
        return f"disabled since {moment(account.disabled_at)}"
    return "may log in" if account.password else "has no password yet"
