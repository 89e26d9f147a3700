"""Addresses of the database, the broker and the console: which are taken, and with which password."""

from urllib.parse import parse_qs, quote, urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_DATABASES = ("sqlite", "postgresql", "postgresql+psycopg")
_SECRETS = ("password", "passfile", "sslpassword")  # libpq's, of a URL's query
_BROKERS = ("redis", "rediss", "redis+socket")


def database_url(text: str) -> str:
    """Return a database's URL as it was; raises ValueError, without a password, when it is none of ours."""
    try:
        url = make_url(text) if text else None
        known = url is None or url.drivername in _DATABASES
    except (ArgumentError, ValueError):  # its text would show a password
        known = False
    if not known:
        raise ValueError("should be like postgresql+psycopg://user:password@host/name or sqlite:////file")
    for name in _SECRETS:
        if url is not None and name in url.query:  # it would be shown with the rest of the URL
            raise ValueError(
                f"{name} cannot stand behind the question mark: set database_password_file, or write "
                "user:password@host"
            )
    return text


def broker_url(text: str) -> str:
    """Return a broker's URL as it was; raises ValueError, without a password, when it is none of ours."""
    if text and text.partition(":")[0] not in _BROKERS:
        raise ValueError("should begin with redis://, rediss:// or redis+socket://")
    if not _is_read_rightly(text):
        raise ValueError("the password must be percent-encoded, or put into broker_password_file")
    parts = urlsplit(text)
    if parse_qs(parts.query).get("ssl_cert_reqs", ["required"]) != ["required"]:
        raise ValueError("ssl_cert_reqs should be required, or left out: it is required then")
    return text


def _is_read_rightly(url: str) -> bool:
    """Whether none of /?#[] in a password has ended it early, and what follows taken for port or path."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text would show a password
        return False
    return parts.scheme == "redis+socket" or "@" not in parts.path + parts.query + parts.fragment


def with_password(url: str, password: str) -> str:
    """Return a broker's URL with this password, or as it was without one."""
    if not password:
        return url
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}@{place}").geturl()


def verifying(url: str) -> str:
    """Return the same URL, told to ask for a certificate: kombu takes any by `rediss://` alone."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs=" in parts.query:
        return url
    return parts._replace(query=f"{parts.query}&ssl_cert_reqs=required".lstrip("&")).geturl()


def console_url(text: str) -> str:
    """Return the console's address without a slash at its end; raises ValueError when it is none."""
    if text and not _is_origin(text):
        raise ValueError("should be like https://hilum.hospital.example, without a path")
    return text.rstrip("/")


def _is_origin(url: str) -> bool:
    """Whether this is a scheme, a host and perhaps a port, and no more."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not has_more
