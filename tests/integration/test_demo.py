"""`hilum demo`, from beginning to end, as somebody runs it who has just installed Hilum."""

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from console.demo import Result, _show, short, summary
from console.sending import Outcome
from db.tables import Study, StudyState
from hilum.phantom import phantom
from tests.conftest import ROOT, SettingsChange
from tests.integration.test_up import command_of, descendants
from tests.peers.helpers import free_port, wait_for

LAST_LINE = re.compile(
    r"demo: (\d+) (?:study|studies) sent, (\d+) read, (\d+) objects in the PACS, (\d+) lost, "
    r"median [\d.]+ s from last image to result"
)


def demo(*arguments: str, path: str) -> tuple[int, str]:
    """Exit status and output of `hilum demo`."""
    command = [sys.executable, "-m", "console.cli", "demo", "--once", *arguments]
    environment = {**os.environ, "PATH": path, "HILUM_LISTENER_PORT": str(free_port())}
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    return answer.returncode, answer.stdout + answer.stderr


@pytest.mark.parametrize("pacs", ["Orthanc", "qrscp"])
def test_phantoms_go_all_the_way_and_none_is_lost(hilum_env: SettingsChange, pacs: str) -> None:
    code, text = demo("--count", "2", path=os.environ["PATH"] if pacs == "Orthanc" else "")
    last = LAST_LINE.fullmatch(text.splitlines()[-1])
    assert last, text
    assert last.groups() == ("2", "2", "4", "0"), text
    assert code == 0


def test_pictures_of_ones_own_go_all_the_way(hilum_env: SettingsChange, shared_data: Path) -> None:
    picture = next((shared_data / "cxr" / "normal").iterdir())
    code, text = demo("--studies", str(picture), path="")
    assert text.splitlines()[-1].startswith("demo: 1 study sent, 1 read, 2 objects in the PACS, 0 lost"), text
    assert code == 0


def test_a_demo_without_anything_to_send_starts_nothing_and_says_why(
    hilum_env: SettingsChange, tmp_path: Path
) -> None:
    folder = tmp_path / "junk"
    folder.mkdir()
    code, text = demo("--studies", str(folder), path="")
    assert code == 1
    assert f"nothing to send in {folder}: no file at all" in text
    (folder / "zero.dcm").touch()
    (folder / "random.dcm").write_bytes(b"random")
    code, text = demo("--studies", str(folder), path="")
    assert code == 1
    assert "2 files, of no use" in text
    assert f"{folder / 'zero.dcm'}: empty" in text
    assert f"{folder / 'random.dcm'}: neither a DICOM file" in text
    assert "Hilum runs in" not in text
    assert "Traceback" not in text


def test_what_is_not_assessed_or_not_sent_stands_in_the_last_line(
    hilum_env: SettingsChange, tmp_path: Path
) -> None:
    lateral = phantom(1, "Normal", rows=125, columns=100)
    lateral.BodyPartExamined, lateral.AnatomicRegionSequence = "KNEE", []
    lateral.save_as(tmp_path / "knee.dcm", enforce_file_format=True)
    phantom(2, "Normal").save_as(tmp_path / "chest.dcm", enforce_file_format=True)
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no image")
    code, text = demo("--studies", str(tmp_path), path="")
    last = text.splitlines()[-1]
    assert last.startswith("demo: 2 studies sent, 1 read, 1 not assessed, "), text
    assert " 0 lost, 1 file not sent, median " in last
    assert "1 other file passed over" in text
    assert code == 1


def test_ctrl_c_ends_a_demo_without_a_traceback(hilum_env: SettingsChange, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "console.cli", "demo", "--once", "--count", "200"]
    environment = {**os.environ, "PATH": "", "HILUM_LISTENER_PORT": str(free_port())}
    with (tmp_path / "said").open("wb") as out:
        running = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )
    said = tmp_path / "said"
    wait_for(lambda: "Hilum runs in" in said.read_text(), 60, "the beginning")
    try:
        wait_for(lambda: any(is_drawing(pid) for pid in descendants(running.pid)), 60, "what draws")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.wait(120) == 130
    finally:
        running.kill()
        running.wait()
    assert "Traceback" not in said.read_text()
    assert "Error" not in said.read_text()


def _hear_ctrl_c() -> None:
    """What runs the tests in the background may have told its children not to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_drawing(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return "multiprocessing.spawn" in command_of(pid)
    return False


def result(patient_id: str, lines: list[tuple[str, str, str]], state: StudyState) -> Result:
    study = Study(study_uid="1.2.3", patient_id=patient_id, state=state)
    return Result(study, False, lines, 2.9, {"1", "2"}, {"1", "2"})


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_keeps_what_matters_in_a_narrow_window(width: int) -> None:
    said = io.StringIO()
    console = Console(file=said, width=width)
    results = [
        result(
            "PHANTOM-WITH-A-LONG-NAME-0001", [("PA", "Pneumonia", ".01 .97 .01 .01")], StudyState.DELIVERED
        ),
        result("P2", [("LAT", "not assessed: a lateral view", "")], StudyState.DELIVERED),
    ]
    _show(results, Outcome(), console)
    text = said.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    [line] = [line for line in text.splitlines() if "PHANTOM" in line]
    assert line.split()[1:] == ["PA", "Pneumonia", ".01", ".97", ".01", ".01", "2.9", "2/2"], text
    assert "…" in line


def test_a_probability_of_one_is_not_shown_as_nothing() -> None:
    assert [short(share) for share in (0.0, 0.049, 0.5, 0.994, 0.996, 1.0)] == [
        ".00",
        ".05",
        ".50",
        ".99",
        "1.0",
        "1.0",
    ]


def test_the_last_line_counts_in_words_that_agree() -> None:
    [one] = [result("P1", [], StudyState.DELIVERED)]
    assert summary([one], Outcome()) == (
        "demo: 1 study sent, 0 read, 1 not assessed, 2 objects in the PACS, 0 lost, "
        "median 2.9 s from last image to result"
    )
