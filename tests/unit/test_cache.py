import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.errors import MachineAtFault, Undecodable
from hilum.radiograph import network_input, without_blank_borders
from tests.unit.images import radiograph, save
from training import decoder
from training.cache import Cache, CacheFull
from training.decoder import Decoder

DYING = """
import os
from training import decoder
read = decoder.read
decoder.read = lambda content: os.abort() if content == b"deadly" else read(content)
decoder.main()
"""


def picture(file: Path, seed: int, size: tuple[int, int] = (260, 240)) -> Path:
    noise = np.random.default_rng(seed).integers(20, 230, size, dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / f"{seed}.png", seed) for seed in range(5)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    decode = Decoder.decode

    def noted(self: Decoder, file: Path) -> object:
        names.append(file.name)
        return decode(self, file)

    monkeypatch.setattr(Decoder, "decode", noted)
    return names


@pytest.fixture
def one_decoder() -> Iterator[Decoder]:
    one = Decoder()
    yield one
    one.close()


def expected(file: Path) -> np.ndarray:
    return network_input(without_blank_borders(np.asarray(Image.open(file))))


def test_images_come_as_the_network_s_input_out_of_a_map(files: list[Path], tmp_path: Path) -> None:
    found = Cache(tmp_path / "cache").read(files)
    assert isinstance(found.pixels, np.memmap)
    np.testing.assert_array_equal(found.pixels, [expected(file) for file in files])


def test_who_writes_to_the_images_writes_to_no_file(files: list[Path], tmp_path: Path) -> None:
    Cache(tmp_path / "cache").read(files).pixels[:] = 0
    np.testing.assert_array_equal(Cache(tmp_path / "cache").read(files[:1]).pixels[0], expected(files[0]))


def test_what_was_decoded_is_not_decoded_again(files: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    Cache(tmp_path / "cache").read(files[:3])
    found = Cache(tmp_path / "cache").read([files[4], *files[:3]])
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "4.png"]
    np.testing.assert_array_equal(found.pixels[0], expected(files[4]))
    np.testing.assert_array_equal(found.pixels[3], expected(files[2]))


def test_files_that_stayed_as_they_were_are_not_even_read(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Cache(tmp_path / "cache").read(files)
    monkeypatch.setattr(decoder, "_outcome", None)
    after = Cache(tmp_path / "cache").read(files)
    assert after.headers == before.headers
    np.testing.assert_array_equal(after.pixels, before.pixels)


def test_a_pack_that_somebody_removed_is_made_anew(files: list[Path], tmp_path: Path) -> None:
    Cache(tmp_path / "cache").read(files)
    [pack] = (tmp_path / "cache").rglob("*.npy")
    pack.unlink()
    found = Cache(tmp_path / "cache").read(files[::-1])
    np.testing.assert_array_equal(found.pixels, [expected(file) for file in files[::-1]])


def test_a_file_that_changed_is_decoded_anew_and_one_that_moved_is_not(
    files: list[Path], tmp_path: Path, decoded: list[str]
) -> None:
    Cache(tmp_path / "cache").read(files)
    decoded.clear()
    picture(files[0], seed=77)
    moved = files[1].rename(tmp_path / "moved.png")
    found = Cache(tmp_path / "cache").read([files[0], moved])
    assert decoded == ["0.png"]
    np.testing.assert_array_equal(found.pixels, [expected(files[0]), expected(moved)])


def test_packs_whose_images_are_all_in_another_are_removed(files: list[Path], tmp_path: Path) -> None:
    for count in (2, 4, 5):
        Cache(tmp_path / "cache").read(files[:count])
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_a_killed_run_leaves_what_was_kept_and_nothing_broken(files: list[Path], tmp_path: Path) -> None:
    folder = Cache(tmp_path / "cache")._folder
    (folder / "half.npy").write_bytes(b"\x93NUMPY half a pack")
    (folder / "half.csv.1.aside").write_text("0123")
    found = Cache(tmp_path / "cache").read(files)
    np.testing.assert_array_equal(found.pixels, [expected(file) for file in files])


def test_what_crashes_left_is_swept_after_a_day(tmp_path: Path) -> None:
    folder = Cache(tmp_path)._folder
    left, new = [folder / "old.aside", folder / "orphan.npy"], [folder / "new.aside", folder / "new.npy"]
    for file in left + new:
        file.touch()
    for file in left:
        os.utime(file, (1_000_000_000, 1_000_000_000))
    Cache(tmp_path)
    assert sorted(folder.iterdir()) == sorted(new)


def test_images_that_nobody_asks_for_are_forgotten_in_time(files: list[Path], tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for days, left in ((80, 2), (80, 2), (100, 0)):  # each use counts anew
        cache.read(files)
        packs = list(cache._folder.glob("*.*"))
        for pack in packs:
            os.utime(pack, (pack.stat().st_mtime - days * 86_400,) * 2)
        Cache(tmp_path / "cache")
        assert len(list(cache._folder.glob("*.*"))) == left


def test_two_runs_at_once_do_no_harm(files: list[Path], tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with ThreadPoolExecutor(4) as runs:
        chosen = [files, files[::-1], files[1:], files[:2]] * 2
        for each, found in zip(chosen, runs.map(cache.read, chosen), strict=True):
            np.testing.assert_array_equal(found.pixels, [expected(file) for file in each])


def test_every_file_that_cannot_be_used_is_named_with_its_reason(files: list[Path], tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(files[0].read_bytes()[:500])
    found = Cache(tmp_path / "cache").read([*files, broken, missing])
    assert found.problems.keys() == {broken, missing}
    assert "picture" in found.problems[broken]
    assert "No such file" in found.problems[missing]


def test_an_image_is_not_blamed_for_what_an_earlier_one_did(files: list[Path], one_decoder: Decoder) -> None:
    one_decoder.decode(files[0])
    assert one_decoder._process is not None
    os.kill(one_decoder._process.pid, signal.SIGSEGV)
    one_decoder._process.wait(timeout=10)
    header, pixels = one_decoder.decode(files[1])
    np.testing.assert_array_equal(pixels, expected(files[1]))
    assert header.patient == ""


def test_a_file_that_its_decoder_dies_of_costs_no_other(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = tmp_path / "deadly.png"
    deadly.write_bytes(b"deadly")
    monkeypatch.setattr(decoder, "_CHILD", ("-c", DYING))
    outcomes = dict(decoder.decoded([files[0], deadly, *files[1:]], known=()))
    assert outcomes.pop(deadly) == "its decoder died of it, or took too long"
    assert all(isinstance(outcome, tuple) for outcome in outcomes.values())


def test_an_image_that_takes_too_long_is_given_up(
    tmp_path: Path, one_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "endless.dcm")
    monkeypatch.setattr(decoder, "LONGEST_S", 0.5)
    with pytest.raises(Undecodable, match="too long"):
        one_decoder.decode(tmp_path / "endless.dcm")


def test_a_dicom_file_says_whose_it_is(tmp_path: Path, one_decoder: Decoder) -> None:
    ds = radiograph(PatientID="A1", PatientSex="F", ViewPosition="AP", PatientAge="061Y")
    header, pixels = one_decoder.decode(save(ds, tmp_path / "a.dcm"))
    assert header[1:] == ("A1", "AP", "F", "61", "")
    assert pixels.shape == (224, 224)


@pytest.mark.parametrize(
    ("age", "birth_date", "study_date", "years"),
    [
        ("006M", "", "", "0.5"),
        ("", "19600630", "20240629", "63"),
        ("", "19600630", "", ""),
        ("", "", "20240629", ""),
    ],
)
def test_the_age_is_what_the_header_states_or_the_time_since_birth(
    age: str, birth_date: str, study_date: str, years: str
) -> None:
    ds = radiograph(PatientBirthDate=birth_date, StudyDate=study_date)
    ds.PatientAge = age
    assert decoder._age_years(ds) == years


def test_sixteen_bits_of_gray_are_seen_as_eight_are(tmp_path: Path, one_decoder: Decoder) -> None:
    eight = np.add.outer(np.arange(240), np.arange(240)) // 2
    Image.fromarray(eight.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((eight * 16).astype(np.uint16)).save(tmp_path / "16.png")
    seen = [one_decoder.decode(tmp_path / name)[1].astype(int) for name in ("8.png", "16.png")]
    assert np.abs(seen[0] - seen[1]).max() <= 2


def test_no_thread_is_left_when_reading_ends(files: list[Path], tmp_path: Path) -> None:
    before = threading.active_count()
    Cache(tmp_path / "cache").read(files)
    assert threading.active_count() == before


def test_modules_in_the_folder_we_stand_in_are_not_executed(
    files: list[Path], tmp_path: Path, one_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pydicom.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(one_decoder.decode(files[0])[1], expected(files[0]))
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_is_told_in_words_and_leaves_nothing_half(files: list[Path], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(CacheFull, match="make some, or name another place with --cache"):
            Cache(small).read(files)
        assert not list(small.rglob("*.npy*"))
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_a_decoder_that_cannot_start_is_not_held_against_the_files(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_CHILD", ("-c", "raise SystemExit(1)"))
    with pytest.raises(MachineAtFault, match="does not start"):
        Cache(tmp_path / "cache").read(files)
