"""The fault rig, in its short form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.helpers import program

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_nothing_is_lost_or_doubled_whatever_breaks() -> None:
    for name, debian in (("Orthanc", "orthanc"), ("dcmsend", "dcmtk")):
        program(name, debian=debian)
    short = {"FAULTS_STUDIES": "40", "FAULTS_SEED": "5", "FAULTS_DATABASE": "sqlite"}
    rig = subprocess.run(
        [sys.executable, "-m", "tests.faults"],
        cwd=ROOT,
        env=os.environ | short,
        capture_output=True,
        text=True,
    )
    said = rig.stdout + rig.stderr
    assert re.search(r"^faults: \d+ injected in \d+ kinds, \d+ studies, 0 lost, 0 doubled", said, re.M), said
    assert rig.returncode == 0, said
