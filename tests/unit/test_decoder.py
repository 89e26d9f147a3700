"""What becomes of an image, of the process that decodes it, and of whoever waits for it."""

import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian

from hilum.errors import Undecodable
from hilum.radiograph import network_input, pixel_hash, to_display
from tests.peers.system import with_argument
from tests.unit.images import radiograph, save
from worker.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(memory_mb=2048, timeout_s=30) as decoder:
        yield decoder


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    stored = np.random.default_rng(7).integers(0, 4096, (1300, 1100))
    return save(radiograph(stored), tmp_path / "chest.dcm")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file whose bytes never come: whoever reads it waits."""
    path = tmp_path / "endless.dcm"
    os.mkfifo(path)
    return path


def children_of(pid: int) -> list[int]:
    """Its decoding processes, among servers that other tests have started."""
    return with_argument("worker.decoder_child", parents={pid})


def eventually(condition: Callable[[], object], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def kill_when_reading(decoder: Decoder, endless: Path, signals: list[signal.Signals]) -> threading.Thread:
    """Send each signal to the decoding process, once it waits for the endless file's bytes."""

    def kill() -> None:
        for one in signals:
            with endless.open("wb"):  # opens when the process has opened it to read
                assert decoder._process is not None
                os.kill(decoder._process.pid, one)
                decoder._process.wait()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_readable_chest_leaves_its_display_image_and_its_network_input(
    decoder: Decoder, chest: Path, tmp_path: Path
) -> None:
    prepared = decoder.prepare(chest, tmp_path / "out")
    ds = dcmread(chest)
    assert (prepared.not_assessed_because, prepared.view) == (None, "PA")
    assert prepared.pixel_hash == pixel_hash(ds)
    kept = np.load(tmp_path / "out" / "input.npy", allow_pickle=False)
    np.testing.assert_array_equal(kept, network_input(to_display(ds)))
    with Image.open(tmp_path / "out" / "display.png") as picture:
        assert (picture.mode, picture.size) == ("L", (866, 1024))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["display.png", "input.npy"]


def test_what_the_header_rules_out_is_not_decoded(decoder: Decoder, tmp_path: Path) -> None:
    ds = radiograph(ViewPosition="LL")
    ds.PixelData = b"\0\0"  # would be undecodable
    prepared = decoder.prepare(save(ds, tmp_path / "lateral.dcm"), tmp_path / "out")
    assert (prepared.not_assessed_because, prepared.view) == ("the view is lateral", "LATERAL")
    assert prepared.pixel_hash == ""
    assert not (tmp_path / "out").exists()


def test_pixels_that_are_no_chest_are_not_kept(decoder: Decoder, tmp_path: Path) -> None:
    blank = save(radiograph(np.zeros((300, 300), dtype=int)), tmp_path / "blank.dcm")
    assert decoder.prepare(blank, tmp_path / "out").not_assessed_because == "the image is empty"
    assert not (tmp_path / "out").exists()


def test_cut_off_pixels_are_undecodable_and_the_process_lives_on(
    decoder: Decoder, chest: Path, tmp_path: Path
) -> None:
    cut_off = tmp_path / "cut-off.dcm"
    cut_off.write_bytes(chest.read_bytes()[:-5000])
    decoder.prepare(chest, tmp_path / "out")
    [child] = children_of(os.getpid())
    with pytest.raises(Undecodable, match="less than expected"):
        decoder.prepare(cut_off, tmp_path / "out")
    assert children_of(os.getpid()) == [child]


def test_no_dicom_at_all_is_undecodable(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "letter.dcm").write_bytes(b"Dear radiologist, " * 100)
    with pytest.raises(Undecodable, match="it is neither DICOM nor"):
        decoder.prepare(tmp_path / "letter.dcm", tmp_path / "out")


def test_a_reason_holds_nothing_that_a_database_or_terminal_chokes_on(
    decoder: Decoder, tmp_path: Path
) -> None:
    odd = save(radiograph(), tmp_path / "odd.dcm")
    odd.write_bytes(odd.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10\x1b[2J\x001.2.1"))
    with pytest.raises(Undecodable, match="Transfer Syntax") as caught:
        decoder.prepare(odd, tmp_path / "out")
    assert str(caught.value).isprintable()


def test_a_missing_file_is_our_own_disks_fault(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decoder.prepare(tmp_path / "missing.dcm", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_our_own_disks_fault(
    decoder: Decoder, chest: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(FileExistsError):
        decoder.prepare(chest, tmp_path / "out")


def test_a_crash_is_undecodable_and_the_next_image_is_prepared(
    decoder: Decoder, chest: Path, endless: Path, tmp_path: Path
) -> None:
    killer = kill_when_reading(decoder, endless, [signal.SIGSEGV])
    with pytest.raises(Undecodable, match="the decoder died with SIGSEGV"):
        decoder.prepare(endless, tmp_path / "out")
    killer.join(timeout=20)
    assert decoder.prepare(chest, tmp_path / "out").not_assessed_because is None


def test_a_crash_in_a_process_that_saw_other_images_is_checked_alone(
    decoder: Decoder, chest: Path, endless: Path, tmp_path: Path
) -> None:
    decoder.prepare(chest, tmp_path / "out")
    killer = kill_when_reading(decoder, endless, [signal.SIGSEGV, signal.SIGABRT])
    with pytest.raises(Undecodable, match="SIGABRT"):  # the second, fresh process has the say
        decoder.prepare(endless, tmp_path / "out")
    killer.join(timeout=20)


def test_an_image_whose_process_was_killed_by_the_machine_is_tried_again(
    decoder: Decoder, endless: Path, tmp_path: Path
) -> None:
    killer = kill_when_reading(decoder, endless, [signal.SIGKILL, signal.SIGSEGV])
    with pytest.raises(Undecodable, match="SIGSEGV"):
        decoder.prepare(endless, tmp_path / "out")
    killer.join(timeout=20)


def test_a_process_killed_between_images_is_not_held_against_the_next(
    decoder: Decoder, chest: Path, tmp_path: Path
) -> None:
    decoder.prepare(chest, tmp_path / "out")
    [child] = children_of(os.getpid())
    os.kill(child, signal.SIGKILL)
    assert decoder.prepare(chest, tmp_path / "out").not_assessed_because is None


def test_an_image_that_takes_too_long_is_given_up(endless: Path, tmp_path: Path) -> None:
    with Decoder(memory_mb=2048, timeout_s=0.5) as decoder:
        with pytest.raises(Undecodable, match=r"took longer than 0\.5 s"):
            decoder.prepare(endless, tmp_path / "out")
        assert children_of(os.getpid()) == []


def test_an_image_that_needs_too_much_memory_is_given_up(chest: Path, tmp_path: Path) -> None:
    large = save(radiograph(np.zeros((5000, 5000), dtype=int)), tmp_path / "large.dcm")
    with Decoder(memory_mb=100, timeout_s=30) as decoder:
        assert decoder.prepare(chest, tmp_path / "out").not_assessed_because is None
        with pytest.raises(Undecodable, match="more than 100 MB of memory"):
            decoder.prepare(large, tmp_path / "out")
        assert decoder.prepare(chest, tmp_path / "out").not_assessed_because is None


def test_more_pixels_than_the_budget_are_not_decoded(decoder: Decoder, tmp_path: Path) -> None:
    ds = radiograph()
    ds.Rows = ds.Columns = 65_000
    with pytest.raises(Undecodable, match="would take 8450 MB"):
        decoder.prepare(save(ds, tmp_path / "huge.dcm"), tmp_path / "out")


def test_a_deflated_bomb_is_not_inflated(decoder: Decoder, tmp_path: Path) -> None:
    ds = radiograph()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = save(ds, tmp_path / "bomb.dcm").read_bytes()
    meta_length = 144 + dcmread(tmp_path / "bomb.dcm").file_meta.FileMetaInformationGroupLength
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packing.compress(bytes(1_000_000)) for _ in range(300)) + packing.flush()
    (tmp_path / "bomb.dcm").write_bytes(whole[:meta_length] + bomb)
    with pytest.raises(Undecodable, match="inflates to more than 256 MB"):
        decoder.prepare(tmp_path / "bomb.dcm", tmp_path / "out")


def test_a_deflated_chest_is_prepared(decoder: Decoder, chest: Path, tmp_path: Path) -> None:
    ds = dcmread(chest)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(ds, tmp_path / "deflated.dcm")
    plain, deflated = (decoder.prepare(path, tmp_path / "out") for path in (chest, tmp_path / "deflated.dcm"))
    assert plain == deflated


class TimeIsUp(Exception):
    pass


def test_an_interrupted_wait_does_not_give_its_answer_to_the_next_image(
    decoder: Decoder, chest: Path, endless: Path, tmp_path: Path
) -> None:
    def time_is_up(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, time_is_up)
    try:
        decoder.prepare(chest, tmp_path / "out")
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeIsUp):
            decoder.prepare(endless, tmp_path / "out")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert children_of(os.getpid()) == []
    assert decoder.prepare(chest, tmp_path / "out").pixel_hash == pixel_hash(dcmread(chest))


def test_no_orphan_goes_on_reading_when_the_owner_is_killed(endless: Path, tmp_path: Path) -> None:
    owner_does = (
        "import pathlib, sys\n"
        "from worker.decoder import Decoder\n"
        "decoder = Decoder(memory_mb=2048, timeout_s=60)\n"
        "decoder.prepare(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", owner_does, str(endless), str(tmp_path / "out")]
    with subprocess.Popen(command) as owner, endless.open("wb"):  # opens when it is being read
        [child] = children_of(owner.pid)
        owner.kill()
        eventually(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_owner_imports_neither_arrays_nor_dicom() -> None:
    heavy = "import sys, worker.decoder; print([m for m in ('numpy', 'pydicom', 'PIL') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_the_process_knows_no_passwords(
    decoder: Decoder, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", "postgresql://hilum:secret@db/hilum")
    decoder.prepare(chest, tmp_path / "out")
    [child] = children_of(os.getpid())
    assert b"secret" not in Path(f"/proc/{child}/environ").read_bytes()


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".dcm", ""))


@pytest.mark.parametrize("kind", ["variety", "hostile"])
def test_every_strange_file_comes_back(
    decoder: Decoder, shared_data: Path, tmp_path: Path, kind: str
) -> None:
    outcomes = [outcome(decoder, path, tmp_path / "out") for path in files_in(shared_data / "dicom" / kind)]
    assert len(outcomes) >= 100
    assert all(outcomes)


@pytest.mark.filterwarnings("ignore")  # of pydicom, on what these files hold
def test_strange_pixels_behind_an_innocent_header_come_back(
    decoder: Decoder, shared_data: Path, tmp_path: Path
) -> None:
    outcomes = []
    for path in files_in(shared_data / "dicom" / "variety"):
        disguised = disguise(path, tmp_path / "disguised.dcm")
        if disguised is not None:
            outcomes.append(outcome(decoder, disguised, tmp_path / "out"))
    assert len(outcomes) >= 90
    assert all(outcomes)
    assert outcomes.count("prepared") >= 10


@pytest.mark.filterwarnings("ignore")
def test_flipped_bits_in_compressed_pixels_come_back(decoder: Decoder, tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    samples = Path(__file__).parents[2] / "hilum" / "samples"
    for sample in samples.glob("*.dcm"):
        disguised = disguise(sample, tmp_path / "sample.dcm")
        assert disguised is not None
        whole = disguised.read_bytes()
        pixels_at = whole.rfind(b"\xe0\x7f\x10\x00") + 8
        for _ in range(4):
            flipped = bytearray(whole)
            for at in random.integers(max(pixels_at, 200), len(whole), 6):
                flipped[at] ^= 1 << int(random.integers(8))
            (tmp_path / "flipped.dcm").write_bytes(flipped)
            assert outcome(decoder, tmp_path / "flipped.dcm", tmp_path / "out")


def outcome(decoder: Decoder, path: Path, out: Path) -> str:
    """The reason why it is not assessed or not decodable, else "prepared"."""
    try:
        return decoder.prepare(path, out).not_assessed_because or "prepared"
    except Undecodable as error:
        return str(error)


def disguise(path: Path, target: Path) -> Path | None:
    """The file with the header of a PA chest, so that its pixels are decoded; None when it has no header."""
    try:
        ds = dcmread(path, force=True)
        ds.SOPClassUID, ds.Modality = ComputedRadiographyImageStorage, "CR"
        ds.BodyPartExamined, ds.ViewPosition, ds.PatientAge = "CHEST", "PA", "061Y"
        for keyword in (
            "PatientBirthDate",
            "AnatomicRegionSequence",
            "ViewCodeSequence",
            "SeriesDescription",
        ):
            ds.pop(keyword, None)
        ds.save_as(target)
    except Exception:  # files made to break readers break this one too
        return None
    return target


def test_modules_in_the_folder_we_stand_in_are_not_executed(
    decoder: Decoder, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pydicom.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert decoder.prepare(chest, tmp_path / "out").not_assessed_because is None
    assert not (tmp_path / "executed").exists()
