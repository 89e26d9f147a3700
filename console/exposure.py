"""What the settings leave open to others, and what to do about it."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from hilum.settings import Settings, config_file

_OTHERS = 0o044


def exposures(ours: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is open, and what to do; nothing is to be done where the network may be trusted."""
    if not ours.senders and not _is_here(ours.listener_host):
        yield f"anybody who reaches {ours.listener_host} may push", "name the senders in [[senders]]"
    if _file_shows_password():
        yield (
            f"{config_file()} holds a password, and others can read it",
            "chmod 600 it, or name files: database_password_file, broker_password_file",
        )
    for name, url in (("database_url", ours.database_url), ("broker_url", ours.broker_url)):
        if url and _is_plain(url):
            yield f"{name}: called without TLS, or without a look at its certificate", ""
    plain = [each.ae_title for each in ours.senders if not (each.tls or each.certificate_sha256)]
    if ours.listener_tls_port is not None and plain and ours.listener_tls_port != ours.listener_port:
        yield f"may call without TLS: {', '.join(plain)}", ""


def _file_shows_password() -> bool:
    """Whether others may read a configuration file that has a password in it."""
    file = config_file()
    if file is None or not file.stat().st_mode & _OTHERS:
        return False
    lines = [line.partition("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    urls = [line.partition("=")[2].strip().strip("\"'") for line in lines if "_url" in line.partition("=")[0]]
    return any(urlsplit(url).password for url in urls)


def _is_plain(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme in ("rediss", "redis+socket", "sqlite") or _is_here(parts.hostname or "localhost"):
        return False
    modes = parse_qs(parts.query).get("sslmode", [])
    return not any(mode in ("verify-full", "verify-ca") for mode in modes)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
