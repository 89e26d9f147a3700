"""DICOM TLS: both sides' contexts, made anew when a certificate is renewed, and their faults in words.

PS3.15 B.12, the BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile: TLS 1.2 at least, 1.3
preferred, and of 1.2 only suites with forward secrecy and authenticated encryption (RFC 9325 4.2).
"""

import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from hilum.errors import SettingsError
from hilum.settings import Settings

log = logging.getLogger(__name__)

_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
_ALERT_S = 1.0
"""With TLS 1.3 a client hears only after its handshake that its certificate is refused."""
_NO_TLS = "it does not speak TLS on this port"
_MEANINGS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "UNEXPECTED_EOF_WHILE_READING": "it hangs up in the handshake",
    "KEY_VALUES_MISMATCH": "the key is not the one of the certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it accepts nothing of what we offer, or wants a certificate of ours",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "NO_SHARED_CIPHER": "it offers no cipher suite of BCP 195",
    "UNSUPPORTED_PROTOCOL": "it offers nothing newer than TLS 1.1",
}


@dataclass(frozen=True)
class Files:
    """PEM files: our certificate and its key, which a client may lack, and the authorities we trust."""

    certificate: Path | None
    key: Path | None
    ca: Path | None


def files(ours: Settings) -> Files:
    """Those of the settings."""
    return Files(ours.tls_certificate, ours.tls_key, ours.tls_ca)


def server_context(of: Files) -> ssl.SSLContext:
    """The context of those who call us, who must show a certificate; the same one until a file changes.

    Raises
    ------
    SettingsError
        If the files cannot be used. Files that once could stay in force when new ones cannot.
    """
    return _renewed(_make_server, of).current()


def client_context(of: Files) -> ssl.SSLContext:
    """The context of those whom we call, whose certificate must name the host; as `server_context`."""
    return _renewed(_make_client, of).current()


def arguments(host: str, of: Files | None) -> tuple[ssl.SSLContext, str] | None:
    """What pynetdicom's `associate` takes as `tls_args`, for a host whose certificate must name it."""
    return (client_context(of), host) if of else None


def fault(host: str, port: int, of: Files | None, timeout_s: float = 5.0) -> str | None:
    """Why a peer does not take a TLS handshake of ours, in words; None when it does, or we call without."""
    if of is None:
        return None
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            client_context(of).wrap_socket(plain, server_hostname=host) as secured,
        ):
            return _alert(secured)
    except TimeoutError:
        return _NO_TLS
    except OSError as error:
        return why(error)


def why(error: OSError) -> str:
    """What a handshake or a file failed on, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, TimeoutError):
        return "it takes too long"
    reason = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLError) and isinstance(reason, str):
        return _MEANINGS.get(reason, reason.lower().replace("_", " "))
    return error.strerror or str(error) or type(error).__name__


def ends(file: Path) -> list[datetime]:
    """When each certificate of a PEM file ends, in its order.

    Raises OSError or ValueError when it cannot be read or holds no certificate.
    """
    from cryptography import x509  # half a second that no handshake needs

    return [each.not_valid_after_utc for each in x509.load_pem_x509_certificates(file.read_bytes())]


class _Renewed:
    """A context and the state of the files it was made of."""

    def __init__(self, make: Callable[[Files], ssl.SSLContext], of: Files) -> None:
        self._make, self._files = make, of
        self._stamp = _stamp(of)
        self._context = self._made()

    def current(self) -> ssl.SSLContext:
        """The context of the files as they are, or as they last were when they could be used."""
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._made()
                log.info("read the certificate of DICOM TLS anew")
            except SettingsError as error:
                log.error("the certificate of DICOM TLS stays as it was: %s", error)
        return self._context

    def _made(self) -> ssl.SSLContext:
        try:
            return self._make(self._files)
        except OSError as error:
            names = ", ".join(str(each) for each in vars(self._files).values() if each)
            raise SettingsError(f"tls_certificate, tls_key, tls_ca ({names}): {why(error)}") from None


@cache
def _renewed(make: Callable[[Files], ssl.SSLContext], of: Files) -> _Renewed:
    return _Renewed(make, of)


def _make_server(of: Files) -> ssl.SSLContext:
    context = _limited(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), of)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _make_client(of: Files) -> ssl.SSLContext:
    return _limited(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), of)  # which checks the host's name


def _limited(context: ssl.SSLContext, of: Files) -> ssl.SSLContext:
    if of.ca is None:
        raise SettingsError("calling by TLS needs tls_ca: the authorities whose certificates we trust")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    if of.certificate:
        # without a passphrase OpenSSL would ask at the terminal for the one of an encrypted key
        context.load_cert_chain(of.certificate, of.key, password="")
    context.load_verify_locations(of.ca)
    return context


def _stamp(of: Files) -> list[tuple[int, int, int] | None]:
    return [_state(each) if each else None for each in vars(of).values()]


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns


def _alert(secured: ssl.SSLSocket) -> str | None:
    secured.settimeout(_ALERT_S)
    try:
        secured.recv(1)
    except TimeoutError:
        return None  # it waits for our request, as it should
    return "it hangs up after the handshake"
