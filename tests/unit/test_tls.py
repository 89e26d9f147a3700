"""Contexts of DICOM TLS: what they allow, how they are renewed, and what is said of those that fail."""

import logging
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hilum import tls
from hilum.errors import SettingsError
from hilum.tls import Files
from tests.peers.certificates import Authority, Certificate


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.sign("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.sign("client")


@contextmanager
def answering(context: ssl.SSLContext | None) -> Iterator[int]:
    """The port of a server that takes handshakes in this context, or none, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer, args=(listening, context), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _answer(listening: socket.socket, context: ssl.SSLContext | None) -> None:
    with suppress(OSError), listening.accept()[0] as peer:
        peer.settimeout(5)
        if context is None:
            peer.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")  # an A-ABORT
        else:
            with context.wrap_socket(peer, server_side=True) as secured:
                secured.recv(1)


def test_a_call_without_known_authorities_is_refused_in_words() -> None:
    with pytest.raises(SettingsError, match="calling by TLS needs tls_ca"):
        tls.client_context(Files(None, None, None))


def test_a_peer_that_knows_us_takes_the_handshake(
    authority: Authority, server: Certificate, client: Certificate
) -> None:
    with answering(tls.server_context(authority.files(server))) as port:
        assert tls.fault("127.0.0.1", port, authority.files(client)) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_without_a_certificate_nobody_gets_in(
    authority: Authority, server: Certificate, version: ssl.TLSVersion
) -> None:
    nobody = Files(None, None, authority.ca)
    taken = tls.server_context(authority.files(server))
    taken.maximum_version = version
    with answering(taken) as port:
        said = tls.fault("127.0.0.1", port, nobody)
    taken.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    assert said is not None
    assert "certificate of ours" in said


def test_a_stranger_and_a_wrong_name_are_told(
    authority: Authority, server: Certificate, client: Certificate, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    with answering(tls.server_context(authority.files(server))) as port:
        said = tls.fault("127.0.0.1", port, Files(client.certificate, client.key, stranger.ca))
    assert said is not None
    assert "its certificate is refused" in said
    elsewhere = authority.sign("elsewhere", names="DNS:pacs.example")
    with answering(tls.server_context(authority.files(elsewhere))) as port:
        said = tls.fault("127.0.0.1", port, authority.files(client))
    assert said is not None
    assert "IP address mismatch" in said
    mine = stranger.sign("mine")
    with answering(tls.server_context(authority.files(server))) as port:
        said = tls.fault("127.0.0.1", port, Files(mine.certificate, mine.key, authority.ca))
    assert said == "it does not know the authority of our certificate"


def test_a_peer_without_tls_is_told(authority: Authority, client: Certificate) -> None:
    with answering(None) as port:
        assert tls.fault("127.0.0.1", port, authority.files(client)) == "it does not speak TLS on this port"


def test_old_versions_and_weak_suites_are_not_spoken(authority: Authority, server: Certificate) -> None:
    context = tls.server_context(authority.files(server))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    suites = [each for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert suites
    assert all(each["aead"] and each["kea"] == "kx-ecdhe" for each in suites)


def test_a_renewed_certificate_is_read_and_a_broken_one_is_not(
    authority: Authority, server: Certificate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Certificate(tmp_path / "own.pem", tmp_path / "own.key")
    shutil.copy(server.certificate, mine.certificate)
    shutil.copy(server.key, mine.key)
    files = authority.files(mine)
    first = tls.server_context(files)
    assert tls.server_context(files) is first
    renewed = authority.sign("renewed")
    with caplog.at_level(logging.INFO, "hilum.tls"):
        shutil.copy(renewed.certificate, mine.certificate)
        assert tls.server_context(files) is first, "the new key is not there yet"
        assert "stays as it was" in caplog.text
        assert "the key is not the one of the certificate" in caplog.text
        shutil.copy(renewed.key, mine.key)
        second = tls.server_context(files)
        assert second is not first
        mine.certificate.unlink()
        assert tls.server_context(files) is second
        assert tls.server_context(files) is second
    assert caplog.text.count("No such file") == 1, "each change is told once"


@pytest.mark.parametrize("part", ["certificate", "key", "ca"])
def test_files_that_cannot_be_used_are_told_at_the_start(
    authority: Authority, server: Certificate, tmp_path: Path, part: str
) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    with pytest.raises(SettingsError, match=r"tls_certificate, tls_key, tls_ca \(.*broken\.pem"):
        tls.server_context(replace(authority.files(server), **{part: broken}))


def test_the_ends_of_certificates_are_read(authority: Authority, tmp_path: Path) -> None:
    short, long = authority.sign("short", days=10), authority.sign("long", days=20_000)
    both = tmp_path / "both.pem"
    both.write_text(short.certificate.read_text() + long.certificate.read_text())
    now = datetime.now(UTC)
    days = [round((end - now) / timedelta(days=1)) for end in tls.ends(both)]
    assert days == [10, 20_000], "the second is written as GeneralizedTime"
    both.write_text("nothing")
    with pytest.raises(ValueError):
        tls.ends(both)
