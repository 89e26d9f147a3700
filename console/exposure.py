"""What the settings leave open to others: what is to be mended, and what only a hospital can weigh."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from sqlalchemy import make_url

from hilum.settings import Destination, Sender, Settings, config_file

_OTHERS = 0o044
_PASSWORD = re.compile("//[^@]*:[^@]+@")


def exposures(ours: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is open, and what to do."""
    if not ours.senders and not _is_here(ours.listener_host):
        yield f"anybody who reaches {ours.listener_host} may push", "name the senders in [[senders]]"
    file = config_file()
    if file and _others_read(file) and _holds_password(file):
        yield (
            f"{file} holds a password, and others can read it",
            "chmod 600 it, or name files: database_password_file, broker_password_file",
        )


def risks(ours: Settings) -> Iterator[str]:
    """Yield what is open, too, and may be so where a network or a machine is trusted."""
    if not _is_here(ours.listener_host):
        yield from _named("may call from any address", [each for each in ours.senders if not each.addresses])
        if ours.listener_tls_port != ours.listener_port:
            plain = [each for each in ours.senders if not (each.tls or each.certificate_sha256)]
            yield from _named("may call without TLS", plain)
    places: list[Sender | Destination] = [*ours.destinations, *ours.senders]
    called = [each for each in places if each.host and not _is_here(each.host)]
    yield from _named("called without TLS", [each for each in called if not each.tls])
    for name, url in (("database_url", ours.database_url), ("broker_url", ours.broker_url)):
        if url and _is_plain(url):
            yield f"{name}: called without TLS, or without a look at its certificate"
    if ours.broker_url and not (_is_local(ours.broker_url) or make_url(ours.broker).password):
        yield "broker_url: whoever reaches the broker may use it, without a password"
    for name in ("tls_key", "database_password_file", "broker_password_file"):
        secret: Path | None = getattr(ours, name)
        if secret and secret.exists() and _others_read(secret):
            yield f"{name}: others on this machine can read {secret}"


def _named(what: str, whom: Iterable[Sender | Destination]) -> Iterator[str]:
    if names := ", ".join(dict.fromkeys(each.ae_title for each in whom)):
        yield f"{what}: {names}"


def _others_read(file: Path) -> bool:
    return bool(file.stat().st_mode & _OTHERS)


def _holds_password(file: Path) -> bool:
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    return any(_PASSWORD.search(str(value)) for name, value in values.items() if name.endswith("_url"))


def _is_plain(url: str) -> bool:
    if _is_local(url) or make_url(url).drivername == "rediss":
        return False
    return make_url(url).query.get("sslmode") not in ("verify-full", "verify-ca")


def _is_local(url: str) -> bool:
    """Whether it leads to no other machine."""
    parts = make_url(url)
    return parts.drivername in ("redis+socket", "sqlite") or _is_here(parts.host or "localhost")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
