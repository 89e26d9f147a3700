"""What a training keeps of itself, to go on after it was stopped, killed, or the machine was switched off."""

import hashlib
import io
import json
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import HilumError
from training import data
from training.data import Images
from training.recipe import Recipe

_EVERY_S = 600.0
"""So much work is lost at most when a training is killed in the midst of an epoch."""


class CheckpointError(HilumError):
    """The person who trains must act: room is missing, or this folder has another training."""


class Training:
    """What a training is of: one recipe, and one set of images with their split."""

    def __init__(self, recipe: Recipe, images: Images, parts: NDArray[np.str_]) -> None:
        self.described: dict[str, Any] = {
            "data": data.digest(images, parts),
            "recipe": recipe.model_dump(mode="json"),
        }
        self.order = hashlib.sha256("\n".join(images.digests.tolist()).encode()).hexdigest()
        """Of the images: which of them come when hangs on it."""

    def require(self, file: Path, kept: Mapping[str, Any]) -> None:
        """Raise CheckpointError, which says what differs, when what a file keeps is of another training."""
        if kept != self.described:
            raise CheckpointError(
                f"{file} is of {self._other(kept)}: name another folder to train anew, "
                "or go on with what it was begun with"
            )

    def _other(self, kept: Mapping[str, Any]) -> str:
        ours, theirs = self.described["recipe"], kept["recipe"]
        if ours == theirs:
            return "other images, or another split of them"
        names = [name for name in ours if theirs.get(name) != ours[name]]
        return f"another recipe (it differs in {', '.join(names)})"


class Checkpoint:
    """A file with the state of one training."""

    def __init__(self, file: Path, training: Training) -> None:
        self._file, self._training = file, training
        self._kept_at = time.monotonic()

    @property
    def folder(self) -> Path:
        return self._file.parent

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._kept_at > _EVERY_S

    def load(self, device: torch.device) -> Mapping[str, Any] | None:
        """Return the state that was kept last; None when there is none.

        Raises CheckpointError when it cannot be read, or is of another training.
        """
        if not self._file.exists():
            return None
        try:
            kept = torch.load(self._file, map_location=device, weights_only=True)
            of, order, state = json.loads(kept["of"]), str(kept["order"]), dict(kept["state"])
        except (RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self._file} is not a checkpoint of this version of Hilum: delete it to begin anew"
            ) from error
        self._training.require(self._file, of)
        if order != self._training.order:
            raise CheckpointError(
                f"{self._file} is of the same images in another order, and cannot go on with this one: "
                "list them as before, or name another folder to train anew"
            )
        return state

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep a state; the one before is lost only when this one is safely on disk.

        Raises CheckpointError when there is no room.
        """
        held = io.BytesIO()  # torch tells of a full disk by a RuntimeError without a cause
        of = {"of": json.dumps(self._training.described), "order": self._training.order}
        torch.save({**of, "state": state}, held)
        try:
            write_safely(self._file, held.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"{self._file} needs {held.tell() / 1e6:.0f} MB and cannot be written ({error.strerror}): "
                "make room and give the same command again; it goes on from what was kept before"
            ) from error
        self._kept_at = time.monotonic()


def write_safely(file: Path, content: bytes | memoryview) -> None:
    """Write a file so that whatever happens it has either its old content or the new one."""
    aside = file.with_name(f"{file.name}.new")
    with aside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    """Have a rename in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
