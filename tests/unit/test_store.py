"""The file store: whole files or none, under names that nobody else chose."""

import os
import threading
from pathlib import Path

import pytest

from hilum.errors import StoreFull
from hilum.store import INSTANCES, PREPARED, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_written_is_read_under_its_relative_path(store: Store) -> None:
    relative = store.write(b"a radiograph", INSTANCES, "1.2.3", "1.2.3.4")
    assert store.path(relative).read_bytes() == b"a radiograph"
    assert not Path(relative).is_absolute()
    assert list(store.aside.iterdir()) == []


def test_a_name_that_is_a_path_stays_inside_the_store(store: Store) -> None:
    relative = store.write(b"", INSTANCES, "../../../etc/passwd")
    assert store.path(relative).resolve().is_relative_to(store.root)
    assert ".." not in relative
    assert "passwd" not in relative


def test_the_same_names_mean_the_same_file_and_a_new_one_takes_its_place(store: Store) -> None:
    first = store.write(b"first", INSTANCES, "1.2", "3")
    assert store.write(b"second", INSTANCES, "1.2", "3") == first
    assert store.path(first).read_bytes() == b"second"


def test_other_names_or_kinds_mean_other_files(store: Store) -> None:
    paths = {
        store.write(b"", INSTANCES, "1.2", "3"),
        store.write(b"", INSTANCES, "1.2", "4"),
        store.write(b"", PREPARED, "1.2", "3"),
        store.write(b"", INSTANCES, "1.2", "3", suffix=".png"),
    }
    assert len(paths) == 4


def test_a_folder_can_be_made_again(store: Store) -> None:
    relative = store.folder(PREPARED, "1.2.3")
    assert store.folder(PREPARED, "1.2.3") == relative
    assert store.path(relative).is_dir()


def test_a_disk_that_refuses_leaves_no_file_in_place(store: Store) -> None:
    aside = store.aside / "half"
    aside.write_bytes(b"half a radiograph")
    store.root.joinpath(INSTANCES).write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        store.place(aside, INSTANCES, "1.2.3")


def test_nobody_else_on_the_machine_may_look_into_the_store(store: Store) -> None:
    relative = store.write(b"a radiograph", INSTANCES, "1.2.3")
    folders = [store.root, store.aside, *store.path(relative).parents]
    inside = [folder for folder in folders if folder.is_relative_to(store.root)]
    assert {folder.stat().st_mode & 0o077 for folder in inside} == {0}


def test_a_store_below_its_watermark_says_what_to_do(store: Store) -> None:
    store.require_free(keep_free_mb=0)
    with pytest.raises(StoreFull, match=r"MB free and keeps \d+ MB: make room"):
        store.require_free(keep_free_mb=10**9)


def test_a_folder_is_removed_with_what_it_holds(store: Store) -> None:
    folder = store.path(store.folder(PREPARED, "1.2.3"))
    (folder / "input.npy.aside").write_bytes(b"half")
    store.remove_folder(PREPARED, "1.2.3")
    store.remove_folder(PREPARED, "1.2.3")
    assert not folder.exists()


def test_what_is_put_into_its_place_meanwhile_does_not_stop_the_sweep(store: Store) -> None:
    ended = threading.Event()

    def receive() -> None:
        for number in range(2000):
            store.place(_empty(store.aside / str(number)), INSTANCES, "1.2.3")
        ended.set()

    listener = threading.Thread(target=receive)
    listener.start()
    while not ended.is_set():
        assert store.sweep_aside(older_than_s=3600) == 0
    listener.join()


def _empty(path: Path) -> Path:
    path.touch()
    return path


def test_only_what_a_crash_left_long_ago_is_swept(store: Store) -> None:
    old, new = store.aside / "old", store.aside / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.sweep_aside(older_than_s=3600) == 1
    assert list(store.aside.iterdir()) == [new]


def test_nobody_else_can_read_it_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        store.write(b"", INSTANCES, "1.2", "3")
        store.folder(PREPARED, "1.2")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in store.root.rglob("*") if path.is_dir()}
    assert modes | {store.root.stat().st_mode & 0o777} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in store.root.rglob("*") if path.is_file()} == {0o600}
