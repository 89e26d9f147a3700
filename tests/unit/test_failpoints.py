"""A process is killed at the step that the fault rig has armed, and at no other."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.failpoints import Failpoints

STUDY_OF_STEPS = """
import sys
from pathlib import Path
from hilum.kernel import fsync
from hilum.store import Store
from sqlalchemy import text
from db.session import engine
store = Store(Path(sys.argv[1]))
for number in range(3):
    store.write(b"12345678", "reports", str(number))
    with engine(f"sqlite:///{sys.argv[1]}/x.sqlite").begin() as connection:
        connection.execute(text("SELECT 1"))
    print(number, flush=True)
"""


def run(failpoints: Failpoints, store: Path, role: str = "deliver@%h") -> tuple[int, str]:
    """Exit status and what was printed by a process that takes three times the same steps."""
    store.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", STUDY_OF_STEPS, str(store), role],
        env=os.environ | failpoints.environment,
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    ("step", "when", "place"),
    [
        ("write", "amid", "amid write in store.Store.write"),
        ("fsync", "after", "after fsync in store.Store.place > store.Store._put"),
        ("rename", "before", "before rename in store.Store.place > store.Store._put"),
        ("commit", "before", "before commit in "),
    ],
)
def test_a_process_dies_at_the_armed_step(tmp_path: Path, step: str, when: str, place: str) -> None:
    failpoints = Failpoints(tmp_path / "inside")
    failpoints.arm("deliver", step, when, skip=1 if step != "fsync" else 5)
    assert run(failpoints, tmp_path / "store") == (-signal.SIGKILL, "0\n" if step != "fsync" else "")
    assert failpoints.place() == place


def test_a_write_is_cut_in_its_middle(tmp_path: Path) -> None:
    failpoints = Failpoints(tmp_path / "inside")
    failpoints.arm("deliver", "write", "amid", skip=0)
    run(failpoints, tmp_path / "store")
    [aside] = (tmp_path / "store" / "aside").iterdir()
    assert aside.read_bytes() == b"1234"


def test_other_processes_live(tmp_path: Path) -> None:
    failpoints = Failpoints(tmp_path / "inside")
    failpoints.arm("listener", "fsync", "before", skip=0)
    assert run(failpoints, tmp_path / "store") == (0, "0\n1\n2\n")
    assert failpoints.place() == ""
