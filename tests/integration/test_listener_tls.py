"""The listener by DICOM TLS, called by DCMTK, pynetdicom and those who only look for a way in."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    Verification,
)

from db.schema import upgrade
from db.session import engine
from db.tables import Instance
from hilum import tls
from hilum.tls import Files
from tests.hostile.wire import (
    C_ECHO_RQ,
    COMMAND,
    LAST,
    NO_DATA_SET,
    VERIFICATION,
    associate,
    command,
    p_data,
    pdu,
)
from tests.integration.conftest import StartListener
from tests.integration.radiographs import large, radiograph
from tests.peers.certificates import Authority, Certificate
from tests.peers.dcmtk import echoscu, storescu
from tests.peers.helpers import answers, free_port, wait_for
from tests.peers.listener import Listener
from tests.peers.scu import OUT_OF_RESOURCES, SUCCESS, parcel, send

UNKNOWN_CALLER = (1, 1, 3)
NOT_OUR_NAME = (1, 1, 7)


@pytest.fixture(scope="module")
def room1(authority: Authority) -> Certificate:
    return authority.sign("room1")


@pytest.fixture(scope="module")
def room2(authority: Authority) -> Certificate:
    return authority.sign("room2")


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def mine(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The listener's certificate, which a test may renew."""
    folder, first = tmp_path_factory.mktemp("mine"), authority.sign("first")
    shutil.copy(first.certificate, folder / "mine.pem")
    shutil.copy(first.key, folder / "mine.key")
    return Certificate(folder / "mine.pem", folder / "mine.key")


@pytest.fixture(scope="module")
def listener(
    authority: Authority,
    mine: Certificate,
    room1: Certificate,
    tls_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Listener]:
    """One listener with a port for TLS beside the plain one."""
    folder = tmp_path_factory.mktemp("listener")
    upgrade(f"sqlite:///{folder / 'hilum.sqlite'}")
    senders = [
        {"ae_title": "ROOM1", "certificate_sha256": [room1.sha256.upper()]},
        {"ae_title": "SECURED", "tls": True},
        {"ae_title": "PLAIN", "called_ae_title": "HILUM_ER"},
        {"ae_title": "DX_ONLY", "sop_classes": [DigitalXRayImageStorageForPresentation]},
        {"ae_title": "FAST", "objects_per_minute": 6},
    ]
    running = Listener(
        folder,
        listener_tls_port=tls_port,
        tls_certificate=mine.certificate,
        tls_key=mine.key,
        tls_ca=authority.ca,
        senders=json.dumps(senders),
    )
    wait_for(lambda: answers(tls_port), what="the port for TLS")
    yield running
    running.stop()
    engine(running.database_url).dispose()


def call(port: int, calling: str, files: Files | None, *, called: str = "HILUM") -> Association:
    """An association that asks for DX, CT and Verification, established or not."""
    ae = AE(calling)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    for each in (DigitalXRayImageStorageForPresentation, CTImageStorage, Verification):
        ae.add_requested_context(each, ExplicitVRLittleEndian)
    return ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls.arguments("127.0.0.1", files))


def rejection(assoc: Association) -> tuple[int | None, ...] | None:
    """Result, source and reason; None when it was accepted, and is released."""
    if assoc.is_established:
        assoc.release()
        return None
    answer = assoc.acceptor.primitive
    assert answer is not None, "no answer at all"
    return answer.result, answer.result_source, answer.diagnostic


def by_tls(files: Files) -> list[str]:
    """DCMTK's options."""
    return ["+tls", str(files.key), str(files.certificate), "+cf", str(files.ca)]


def file_of(folder: Path, size_bytes: int) -> Path:
    ds = radiograph(**large(size_bytes))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(folder / "1.dcm", enforce_file_format=True)
    return folder / "1.dcm"


def test_an_object_sent_by_tls_is_kept_whole(
    listener: Listener, authority: Authority, room1: Certificate, tls_port: int, tmp_path: Path
) -> None:
    path = file_of(tmp_path, 3_000_000)
    sent = storescu(tls_port, path, calling="ROOM1", options=by_tls(authority.files(room1)))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    with listener.session() as session:
        [instance] = session.query(Instance).where(Instance.sender_ae == "ROOM1")
    kept = (listener.store / instance.path).read_bytes()
    assert kept.endswith(path.read_bytes()[-3_000_000:])


def test_whoever_has_no_certificate_of_the_authority_gets_nowhere(
    listener: Listener, authority: Authority, tls_port: int, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    theirs = stranger.sign("theirs")
    for files in (Files(None, None, authority.ca), Files(theirs.certificate, theirs.key, authority.ca)):
        assert tls.fault("127.0.0.1", tls_port, files) is not None
        assert not call(tls_port, "SECURED", files).is_established
    assert not echoscu(tls_port, calling="SECURED"), "without TLS"
    wait_for(lambda: "it shows no certificate" in listener.log, what="the reason in the log")
    assert "the TLS handshake of 127.0.0.1 fails" in listener.log


def test_a_sender_is_bound_to_its_certificate(
    listener: Listener, authority: Authority, room1: Certificate, room2: Certificate, tls_port: int
) -> None:
    of_room1, of_room2 = authority.files(room1), authority.files(room2)
    assert rejection(call(tls_port, "ROOM1", of_room1)) is None
    assert rejection(call(tls_port, "ROOM1", of_room2)) == UNKNOWN_CALLER
    assert rejection(call(listener.port, "ROOM1", None)) == UNKNOWN_CALLER
    assert rejection(call(tls_port, "SECURED", of_room2)) is None
    assert rejection(call(listener.port, "SECURED", None)) == UNKNOWN_CALLER
    assert f"its certificate is another than its own: {room2.sha256}" in listener.log
    assert "it must call by TLS" in listener.log


def test_a_sender_calls_the_name_that_its_rule_gives_us(listener: Listener) -> None:
    assert rejection(call(listener.port, "PLAIN", None, called="HILUM_ER")) is None
    assert rejection(call(listener.port, "PLAIN", None)) == NOT_OUR_NAME
    assert rejection(call(listener.port, "DX_ONLY", None, called="HILUM_ER")) == NOT_OUR_NAME


def test_a_sender_may_send_only_the_sop_classes_of_its_rule(listener: Listener) -> None:
    assoc = call(listener.port, "DX_ONLY", None)
    accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
    assoc.release()
    assert accepted == {DigitalXRayImageStorageForPresentation, Verification}


def test_a_sender_that_is_too_fast_is_slowed_down_and_beyond_that_refused(listener: Listener) -> None:
    parcels = [parcel(radiograph()) for _ in range(8)]
    assert send(listener.port, *parcels[:6], calling="FAST") == [SUCCESS] * 6
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda each: send(listener.port, each, calling="FAST"), parcels[6:]))
    assert sorted(both, key=str) == [[SUCCESS], [OUT_OF_RESOURCES]]
    assert time.monotonic() - began > 5
    with listener.session() as session:
        assert session.query(Instance).where(Instance.sender_ae == "FAST").count() == 7
    assert listener.files("aside") == []


def test_silent_and_slow_handshakes_keep_nobody_waiting(
    listener: Listener, authority: Authority, room2: Certificate, tls_port: int
) -> None:
    with ExitStack() as stack:
        for begin in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
            for _ in range(15):
                silent = stack.enter_context(socket.create_connection(("127.0.0.1", tls_port)))
                silent.sendall(begin)
        began = time.monotonic()
        assert rejection(call(tls_port, "SECURED", authority.files(room2))) is None
        assert time.monotonic() - began < 5
    assert rejection(call(tls_port, "SECURED", authority.files(room2))) is None


def test_a_renewed_certificate_is_shown_at_the_next_call(
    listener: Listener, authority: Authority, mine: Certificate, room2: Certificate, tls_port: int
) -> None:
    assert shown(tls_port, authority.files(room2)) == mine.sha256
    renewed = authority.sign("renewed")
    shutil.copy(renewed.certificate, mine.certificate)
    assert shown(tls_port, authority.files(room2)) != renewed.sha256, "its key is not there yet"
    shutil.copy(renewed.key, mine.key)
    assert shown(tls_port, authority.files(room2)) == renewed.sha256
    assert "stays as it was" in listener.log


def shown(port: int, files: Files) -> str:
    """The fingerprint of the certificate that the listener shows."""
    context = tls.client_context(files)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()


def test_one_port_for_both_speaks_nothing_but_tls(
    start_listener: StartListener, authority: Authority, mine: Certificate, room1: Certificate
) -> None:
    port = free_port()
    listener = start_listener(
        listener_port=port,
        listener_tls_port=port,
        tls_certificate=mine.certificate,
        tls_key=mine.key,
        tls_ca=authority.ca,
    )
    assert rejection(call(listener.port, "ANYBODY", authority.files(room1))) is None
    assert not echoscu(listener.port)


def test_the_listener_says_in_words_that_its_certificate_cannot_be_used(
    authority: Authority, room1: Certificate, room2: Certificate, tmp_path: Path
) -> None:
    ports = {"HILUM_LISTENER_PORT": str(free_port()), "HILUM_LISTENER_TLS_PORT": str(free_port())}
    files = {
        "HILUM_DATA_DIR": str(tmp_path),
        "HILUM_TLS_CERTIFICATE": str(room1.certificate),
        "HILUM_TLS_KEY": str(room2.key),
        "HILUM_TLS_CA": str(authority.ca),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "dicom_listener"],
        env=ports | files,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "the key is not the one of the certificate" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_comes_in_one_record_of_tls_is_all_heard(
    listener: Listener, authority: Authority, room2: Certificate, tls_port: int
) -> None:
    echo = command({0x0002: VERIFICATION, 0x0100: C_ECHO_RQ, 0x0110: 1, 0x0800: NO_DATA_SET})
    context = tls.client_context(authority.files(room2))
    with (
        socket.create_connection(("127.0.0.1", tls_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(associate((1, VERIFICATION, [ExplicitVRLittleEndian]), calling=b"SECURED"))
        assert secured.recv(4096)[0] == 2, "accepted"
        secured.sendall(p_data(1, COMMAND | LAST, echo) + pdu(5, bytes(4)))
        heard = secured.recv(4096)
        while len(heard) < 10 or heard[-10] != 6:
            more = secured.recv(4096)
            assert more, "the connection ended without an answer to the release"
            heard += more
    assert heard[0] == 4, "an answer to the C-ECHO"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(
    listener: Listener, authority: Authority, room2: Certificate, tls_port: int, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(room2.certificate, room2.key)
    context.maximum_version = context.minimum_version = version
    ae = AE("SECURED")
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", tls_port, ae_title="HILUM", tls_args=(context, "127.0.0.1"))
    assert assoc.send_c_echo().Status == SUCCESS
    assoc.release()
