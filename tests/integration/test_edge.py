"""An edge machine: `pip install hilum[edge]` into an environment of its own, without torch."""

import json
import os
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from hilum import phantom
from hilum.engine import named_engine
from hilum.network import load_artefact, shipped
from hilum.radiograph import network_input, to_display
from tests.conftest import ROOT
from tests.peers.helpers import missing

INSTALL_S = 900
MOST_MB = 800
"""Resident memory that `hilum predict` may take for a radiograph of full size."""
NOT_PART = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "hilum-data", "__pycache__")
UNREACHED = ("connection broken by", "Max retries exceeded")
"""What pip says when it cannot reach its registry; whatever else it says is our fault."""
PREDICT = """
import sys
from console.cli import main
try:
    main()
finally:
    print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""

pytestmark = pytest.mark.timeout(INSTALL_S + 120)


@dataclass(frozen=True)
class Edge:
    """The environment, and a folder in which nothing is configured."""

    python: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def predict(self, *arguments: str) -> tuple[int, dict[str, Any], int]:
        """The exit status, what `--json` told, and the peak of resident memory in MB."""
        answer = self.run("-c", PREDICT, "predict", "--json", *arguments)
        assert "Traceback" not in answer.stderr
        return answer.returncode, json.loads(answer.stdout), int(answer.stderr.split()[-1]) // 1000


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Edge:
    folder = tmp_path_factory.mktemp("edge")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_PART)  # pip builds where the source lies
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [*pip, *constraints, f"{folder / 'source'}[edge]"],
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )
    if done.returncode and any(words in done.stderr for words in UNREACHED):
        missing("the packages of hilum[edge] cannot be had here: pip needs a registry")
    assert done.returncode == 0, done.stderr
    (folder / "empty").mkdir()
    return Edge(python, folder / "empty")


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of full size."""
    file = tmp_path_factory.mktemp("radiograph") / "chest.dcm"
    phantom.phantom(3, "Pneumonia").save_as(file, enforce_file_format=True)
    return file


def test_torch_is_not_installed(edge: Edge) -> None:
    found = edge.run("-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('sklearn'))")
    assert found.stdout.split() == ["None", "None"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_radiograph_is_read_as_it_is_with_torch(edge: Edge, radiograph: Path, engine: str) -> None:
    pytest.importorskip("torch")
    code, told, peak_mb = edge.predict(str(radiograph), "--engine", engine)
    assert code == 0
    assert told["engine"] == engine
    [image] = told["images"]
    reference = named_engine(load_artefact(shipped()), "torch")
    expected = reference.read(network_input(to_display(pydicom.dcmread(radiograph)))[None])
    np.testing.assert_allclose(list(image["probabilities"].values()), expected.probabilities[0], atol=0.02)
    assert peak_mb < MOST_MB


def test_real_files_are_read_and_bad_ones_told_of(edge: Edge, shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "dicom" / "chest" / "dicom-test-files__RG1_JLSN.dcm"
    (tmp_path / "letter.txt").write_text("neither")
    code, told, peak_mb = edge.predict(str(real), str(tmp_path / "letter.txt"), "--engine", "onnxruntime")
    assert code == 1
    chest, letter = told["images"]
    assert chest["wrong"] is None
    assert chest["label"] or chest["not_assessed_because"]
    assert letter["wrong"] == "it is neither DICOM nor a JPEG or PNG picture"
    assert peak_mb < MOST_MB


def test_the_command_is_there_and_says_what_it_is_worth(edge: Edge, radiograph: Path) -> None:
    hilum = edge.python.parent / "hilum"
    answer = subprocess.run(
        [hilum, "predict", radiograph],
        cwd=edge.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "For research only. Not a medical device." in answer.stdout


def test_training_says_what_it_lacks(edge: Edge) -> None:
    recipe = edge.folder / "recipe.toml"
    recipe.write_text("")
    answer = edge.run("-m", "console.cli", "train", str(recipe), "--data", ".", "--out", "out")
    assert answer.returncode == 2
    assert "pip install" in answer.stderr and "Traceback" not in answer.stderr
