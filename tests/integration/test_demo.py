"""`hilum demo`, from beginning to end, as somebody runs it who has just installed Hilum."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SettingsChange
from tests.peers.helpers import free_port

LAST_LINE = re.compile(
    r"demo: (\d+) studies sent, (\d+) read, (\d+) objects in the PACS, (\d+) lost, "
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
    assert text.splitlines()[-1].startswith("demo: 1 studies sent, 1 read, 2 objects in the PACS, 0 lost"), (
        text
    )
    assert code == 0


def test_a_demo_without_anything_to_send_says_so(hilum_env: SettingsChange, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, text = demo("--studies", str(tmp_path / "empty"), path="")
    assert code == 1
    assert "neither a DICOM file nor" in text
    assert "Traceback" not in text
