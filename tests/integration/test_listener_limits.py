"""What the listener does when it cannot keep an object, and whom it does not let in."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from db.schema import upgrade
from db.session import engine
from db.tables import Instance, Variant
from tests.integration.conftest import StartListener
from tests.integration.radiographs import large, radiograph
from tests.peers.dcmtk import echoscu
from tests.peers.helpers import answers, free_port, program, wait_for
from tests.peers.listener import Listener
from tests.peers.scu import (
    OUT_OF_RESOURCES,
    SUCCESS,
    Parcel,
    association,
    fragments,
    parcel,
    rejection,
    reply,
    send,
)

MB = 1_000_000
UNKNOWN_CALLER = (1, 1, 3)
NOT_OUR_NAME = (1, 1, 7)
TOO_MANY = (2, 3, 2)
OTHER_PIXELS = 0xC001


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            [program("mount", debian="mount"), "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
            capture_output=True,
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One listener with narrow limits for the tests that need no settings of their own."""
    folder = tmp_path_factory.mktemp("listener")
    upgrade(f"sqlite:///{folder / 'hilum.sqlite'}")
    running = Listener(
        folder, max_associations=3, max_object_mb=1, any_called_ae_title="true", other_pixels="refuse"
    )
    yield running
    running.stop()
    engine(running.database_url).dispose()


def reason(listener: Listener, each: Parcel) -> str | None:
    """The Error Comment that a refused sender gets."""
    with association(listener.port, [each]) as assoc:
        answer = reply(assoc, each)
    assert answer is not None and answer.Status != SUCCESS
    return answer.ErrorComment


def test_a_disk_that_fills_in_mid_object_is_refused_so_that_the_sender_keeps_its_copy(
    start_listener: StartListener, small_disk: Path
) -> None:
    listener = start_listener(store_dir=small_disk, keep_free_mb=0)
    too_large = parcel(radiograph(**large(12 * MB)))
    answers = send(listener.port, too_large, parcel(radiograph()), too_large)
    assert answers == [OUT_OF_RESOURCES, SUCCESS, OUT_OF_RESOURCES]
    assert listener.files("aside") == []
    with listener.session() as session:
        assert session.query(Instance).count() == 1


def test_a_file_that_cannot_grow_is_refused_and_the_listener_lives_on(
    start_listener: StartListener, tmp_path: Path
) -> None:
    listener = start_listener()
    resource.prlimit(listener.process.pid, resource.RLIMIT_FSIZE, (4 * MB, 4 * MB))
    answers = send(listener.port, parcel(radiograph(**large(6 * MB))), parcel(radiograph()))
    assert answers == [OUT_OF_RESOURCES, SUCCESS]
    assert "File too large" in listener.log


def test_below_the_watermark_nothing_is_accepted(start_listener: StartListener) -> None:
    listener = start_listener(keep_free_mb=10**9, refuse_below_mb=0)
    assert send(listener.port, parcel(radiograph())) == [OUT_OF_RESOURCES]
    assert echoscu(listener.port)
    assert "make room" in listener.log
    assert reason(listener, parcel(radiograph())) == "the store cannot take it: try again later"


def test_an_object_above_the_limit_is_refused(listener: Listener) -> None:
    assert reason(listener, parcel(radiograph(**large(2 * MB)))) == (
        "the object is larger than max_object_mb = 1"
    )
    answers = send(listener.port, parcel(radiograph(**large(2 * MB))), parcel(radiograph()))
    assert answers == [OUT_OF_RESOURCES, SUCCESS]
    assert "max_object_mb" in listener.log


def test_without_its_database_it_refuses_and_once_it_is_back_it_accepts(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    try:
        ds = parcel(radiograph(PatientName="Secret^Name"))
        assert reason(listener, ds) == "the database does not answer: try again later"
        assert "the database" in listener.log and "Secret" not in listener.log
        upgrade(listener.database_url)
        assert send(listener.port, ds) == [SUCCESS]
        assert len(listener.files("instances")) == 1
    finally:
        listener.stop()


def test_callers_are_let_in_by_name_and_address(start_listener: StartListener) -> None:
    senders = [
        {"ae_title": "MODALITY", "addresses": ["127.0.0.0/8", "10.0.0.1"]},
        {"ae_title": "ELSEWHERE", "addresses": ["10.0.0.0/8"]},
        {"ae_title": "ANYWHERE"},
    ]
    listener = start_listener(senders=json.dumps(senders))
    assert rejection(listener.port) is None
    assert rejection(listener.port, calling="ANYWHERE") is None
    assert rejection(listener.port, calling="STRANGER") == UNKNOWN_CALLER
    assert rejection(listener.port, calling="ELSEWHERE") == UNKNOWN_CALLER
    assert rejection(listener.port, called="SOMEBODY") == NOT_OUR_NAME
    assert "'STRANGER' at 127.0.0.1" in listener.log


def test_any_name_may_be_called_where_the_settings_say_so(listener: Listener) -> None:
    assert rejection(listener.port, called="SOMEBODY") is None


def test_a_changed_configuration_is_read_on_sighup_and_a_wrong_one_is_not(
    start_listener: StartListener, tmp_path: Path
) -> None:
    file = tmp_path / "hilum.toml"
    file.write_text('senders = [{ ae_title = "FIRST" }]')
    listener = start_listener()
    assert rejection(listener.port, calling="SECOND") == UNKNOWN_CALLER
    file.write_text('senders = [{ ae_title = "SECOND" }]')
    listener.read_settings_anew()
    wait_for(lambda: "anew" in listener.log, what="the settings being read")
    assert rejection(listener.port, calling="SECOND") is None
    file.write_text("senders = 7")
    listener.read_settings_anew()
    wait_for(lambda: "stay as they were" in listener.log, what="the settings being refused")
    assert send(listener.port, parcel(radiograph()), calling="SECOND") == [SUCCESS]


def test_as_many_associations_as_allowed_are_open_at_once(listener: Listener) -> None:
    ds = parcel(radiograph())
    with ExitStack() as stack:
        open_ = [stack.enter_context(association(listener.port, [ds])) for _ in range(3)]
        assert all(assoc.is_established for assoc in open_)
        assert rejection(listener.port) == TOO_MANY
    wait_for(lambda: rejection(listener.port) is None, what="a place for the next")


def test_connections_that_say_nothing_keep_nobody_out(listener: Listener) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(call(listener.port)) for _ in range(60)]
        began = time.monotonic()
        assert send(listener.port, parcel(radiograph())) == [SUCCESS]
        assert time.monotonic() - began < 5
        silent[0].settimeout(5)
        assert silent[0].recv(1) == b"", "the oldest gives way"
    assert listener.memory_mb < 250


def test_whoever_falls_silent_is_cut_off(start_listener: StartListener) -> None:
    listener = start_listener(idle_timeout_s=0.5)
    with association(listener.port, [parcel(radiograph())]) as assoc:
        wait_for(lambda: not assoc.is_established, 10, "the listener's abort")
    assert "aborted" in listener.log
    with call(listener.port) as silent, call(listener.port, begin=b"\x01") as half_a_request:
        for each in (silent, half_a_request):
            each.settimeout(10)
            assert each.recv(1) == b""


def call(port: int, *, begin: bytes = b"") -> socket.socket:
    """A connection on which nothing is asked for."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.sendall(begin)
    return peer


@pytest.mark.parametrize("pdu_type", [0x01, 0x04])
def test_a_pdu_that_claims_four_gigabytes_is_not_believed(listener: Listener, pdu_type: int) -> None:
    before_mb = listener.memory_mb
    with socket.create_connection(("127.0.0.1", listener.port)) as peer:
        peer.settimeout(10)
        peer.sendall(bytes([pdu_type, 0]) + b"\xff" * 4)
        answer = peer.recv(10)
    assert answer[:1] == b"\x07", "an A-ABORT"
    assert listener.memory_mb < before_mb + 20
    assert echoscu(listener.port)


def test_a_running_transfer_is_finished_before_the_process_ends(start_listener: StartListener) -> None:
    listener = start_listener()
    ds = parcel(radiograph(**large(MB)))
    with association(listener.port, [ds]) as assoc:
        first, *rest = fragments(assoc, ds)
        assoc._reactor_checkpoint.clear()
        assoc.dul.send_pdu(first)
        assoc.dul.send_pdu(rest[0])
        wait_for(lambda: listener.files("aside"), what="the first bytes")
        listener.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(listener.port), what="the stop")
        stays_true(lambda: assoc.is_established, 0.5)
        for each in rest[1:]:
            assoc.dul.send_pdu(each)
        _, answer = assoc.dimse.get_msg(block=True)
        assert answer is not None and answer.Status == SUCCESS
        assoc._reactor_checkpoint.set()
        assert listener.process.wait(15) == 0
    with listener.session() as session:
        assert session.query(Instance).count() == 1


def stays_true(condition: Callable[[], bool], for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        assert condition()
        time.sleep(0.02)


def test_what_a_sender_left_half_sent_is_removed(listener: Listener) -> None:
    ds = parcel(radiograph(**large(MB // 2)))
    with association(listener.port, [ds]) as assoc:
        for each in fragments(assoc, ds)[:20]:
            assoc.dul.send_pdu(each)
        wait_for(lambda: listener.files("aside"), what="the first bytes")
        assoc.abort()
    wait_for(lambda: not listener.files("aside"), 10, "the half object's end")


def test_two_processes_share_one_port_and_one_may_die(start_listener: StartListener) -> None:
    first = start_listener(listener_processes=2)
    second = start_listener(listener_processes=2, listener_port=first.port)
    wait_for(lambda: "listens" in second.log, what="the second process")
    wait_for(lambda: _serves_both(first, second), what="both being called")
    first.kill()
    assert send(second.port, parcel(radiograph())) == [SUCCESS]


def _serves_both(first: Listener, second: Listener) -> bool:
    assert send(first.port, parcel(radiograph())) == [SUCCESS]
    return "MODALITY" in first.log and "MODALITY" in second.log


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_another_program_has_is_said_in_words(tmp_path: Path, processes: str) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        env = os.environ | {
            "HILUM_DATA_DIR": str(tmp_path),
            "HILUM_LISTENER_PORT": str(other.getsockname()[1]),
            "HILUM_LISTENER_PROCESSES": processes,
        }
        ended = subprocess.run(
            [sys.executable, "-m", "dicom_listener"], env=env, capture_output=True, text=True, timeout=30
        )
    assert ended.returncode == 1
    assert "taken by another program" in ended.stderr and "Traceback" not in ended.stderr


def test_other_pixels_are_refused_where_the_settings_say_so(listener: Listener) -> None:
    ds = radiograph()
    other = radiograph(SOPInstanceUID=ds.SOPInstanceUID, PixelData=b"\1" * 8192)
    assert send(listener.port, parcel(ds), parcel(other)) == [SUCCESS, OTHER_PIXELS]
    assert reason(listener, parcel(other)) == "the UID is taken by an object of other pixels or study"
    with listener.session() as session:
        assert session.query(Variant).one().uid == ds.SOPInstanceUID
