"""The disk's watermarks: who would send is kept out before it is full, and who asks or reports is not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.tables import Instance
from tests.integration.conftest import StartListener
from tests.integration.radiographs import radiograph
from tests.peers.dcmtk import echoscu
from tests.peers.helpers import program
from tests.peers.scu import SUCCESS, association, parcel, rejection, reply, send

NO_ROOM = (2, 3, 2)
MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = [program("mount", debian="mount"), "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_before_the_disk_is_full_senders_are_kept_out_until_there_is_room(
    start_listener: StartListener, small_disk: Path
) -> None:
    listener = start_listener(store_dir=small_disk, keep_free_mb=4)
    assert send(listener.port, parcel(radiograph())) == [SUCCESS]
    (small_disk / "others").write_bytes(bytes(10 * MB))
    assert rejection(listener.port, parcel(radiograph())) == NO_ROOM
    assert "make room" in listener.log
    assert echoscu(listener.port), "who only asks needs no room"
    (small_disk / "others").unlink()
    assert send(listener.port, parcel(radiograph())) == [SUCCESS]
    with listener.session() as session:
        assert session.query(Instance).count() == 2


def test_an_association_that_was_open_when_the_disk_filled_may_go_on(
    start_listener: StartListener, small_disk: Path
) -> None:
    listener = start_listener(store_dir=small_disk, keep_free_mb=2, refuse_below_mb=12)
    ds = parcel(radiograph())
    with association(listener.port, [ds]) as assoc:
        (small_disk / "others").write_bytes(bytes(8 * MB))
        assert rejection(listener.port, ds) == NO_ROOM
        answer = reply(assoc, ds)
        assert answer is not None and answer.Status == SUCCESS


def test_a_store_that_cannot_be_asked_keeps_senders_out_for_the_time_being(
    start_listener: StartListener, tmp_path: Path
) -> None:
    listener = start_listener()
    aside = listener.store / "aside"
    aside.rmdir()
    aside.write_text("a file where the folder should be")
    assert rejection(listener.port, parcel(radiograph())) == NO_ROOM
