"""What a training keeps of itself, to go on after it was stopped, killed, or the machine was switched off."""

import io
import json
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hilum.errors import HilumError
from training.recipe import Recipe

_EVERY_S = 600.0
"""So much work is lost at most when a training is killed in the midst of an epoch."""


class CheckpointError(HilumError):
    """The person who trains must act: room is missing, or this folder has another training."""


class Checkpoint:
    """A file with the state of one training: of one recipe, on one set of images and its split."""

    def __init__(self, file: Path, recipe: Recipe, data_digest: str) -> None:
        self._file = file
        self._of: dict[str, Any] = {"data": data_digest, "recipe": recipe.model_dump(mode="json")}
        self._kept_at = time.monotonic()

    def load(self, device: torch.device) -> Mapping[str, Any] | None:
        """Return the state that was kept last; None when there is none.

        Raises CheckpointError, which says what differs, when it is of another recipe or of other images.
        """
        if not self._file.exists():
            return None
        try:
            kept = torch.load(self._file, map_location=device, weights_only=True)
            of, state = json.loads(kept["of"]), dict(kept["state"])
        except (RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self._file} is not a checkpoint of this version of Hilum: delete it to begin anew"
            ) from error
        if of != self._of:
            raise CheckpointError(
                f"{self._file} is of {self._other(of)}: name another folder to train anew, "
                "or go on with what it was begun with"
            )
        return state

    def _other(self, of: Mapping[str, Any]) -> str:
        if of["recipe"] == self._of["recipe"]:
            return "other images, or another split of them"
        names = [name for name in self._of["recipe"] if of["recipe"].get(name) != self._of["recipe"][name]]
        return f"another recipe (it differs in {', '.join(names)})"

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep a state; the one before is lost only when this one is safely on disk.

        Raises CheckpointError when there is no room.
        """
        held = io.BytesIO()  # torch tells of a full disk by a RuntimeError without a cause
        torch.save({"of": json.dumps(self._of), "state": state}, held)
        aside = self._file.with_suffix(".new")
        try:
            _write(aside, held.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"{self._file} needs {held.tell() / 1e6:.0f} MB and cannot be written ({error.strerror}): "
                "make room and give the same command again; it goes on from what was kept before"
            ) from error
        aside.replace(self._file)
        _sync(self._file.parent)
        self._kept_at = time.monotonic()

    @property
    def folder(self) -> Path:
        return self._file.parent

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._kept_at > _EVERY_S


def _write(file: Path, content: memoryview) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """Have a rename in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
