"""Failpoints: a process of ours dies at a step on a study's way, between two things that it makes last."""

import json
import shutil
from pathlib import Path

STEPS = {
    "listener": ("write", "fsync", "rename", "commit", "bell"),
    "prepare": ("fsync", "commit", "bell"),
    "decoder": ("write", "fsync", "rename"),
    "classify": ("commit", "bell"),
    "deliver": ("write", "fsync", "rename", "commit", "bell", "C-STORE", "N-ACTION"),
    "sweep": ("commit",),
}
"""Kind of process -> the steps at which it can be made to die."""


class Failpoints:
    """Arms one step at a time, and tells where a process died of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(Path(__file__).with_name("inside.py"), folder / "sitecustomize.py")
        self._armed, self._struck = folder / "armed.json", folder / "struck.json"
        self._number = 0
        self.environment = {"PYTHONPATH": str(folder)}
        """What processes need in order to be struck."""

    def arm(self, role: str, step: str, when: str, *, skip: int) -> None:
        """Have the first process of this kind die that passes here more often than `skip` times."""
        self._struck.unlink(missing_ok=True)
        self._number += 1
        point = {"number": self._number, "role": role, "step": step, "when": when, "skip": skip}
        aside = self._armed.with_suffix(".aside")
        aside.write_text(json.dumps(point))
        aside.replace(self._armed)

    def disarm(self) -> None:
        """Let everybody live, but who has died already."""
        self._armed.unlink(missing_ok=True)

    def place(self) -> str:
        """Where a process died of what was armed last; empty while none has."""
        return str(json.loads(self._struck.read_text())) if self._struck.exists() else ""
