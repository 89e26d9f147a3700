"""The processes that train one network together, as torchrun starts them, and what stops them.

Every process takes its share of a step's batches, and gradients are added up, so that a recipe gives the
same weights, but for rounding, on one processor and on several. That is why batch normalisation sees each
batch on its own (no SyncBatchNorm): how large they are is the recipe's to say. The running statistics that
each process gathers of its batches are averaged at the end of every epoch; those are the same only once a
recipe with `settling_images` measures them anew.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
from torch import Tensor, distributed

from training.recipe import Recipe, RecipeError

_STOPS = (signal.SIGINT, signal.SIGTERM)
_INSISTS_S = 3.0  # torchrun passes on at once what a terminal has sent to all of its processes
_PATIENCE = timedelta(hours=24)  # the first process reads the images while the others wait


class Alone:
    """One process, which is all there is."""

    rank, size = 0, 1

    def own(self, batches: int) -> range:
        """Return which of a step's batches this process takes."""
        return range(batches)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Have every process hold the sums of all processes' tensors."""

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Have every process hold the means of all processes' tensors."""

    def any(self, flag: bool) -> bool:
        return flag

    def of_first(self, value: float) -> float:
        """Return what the first process says, so that all decide alike."""
        return value

    def wait(self) -> None:
        """Return when every process has come here."""


class Crew(Alone):
    """Several processes, one per GPU, or on CPUs alone."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def own(self, batches: int) -> range:
        return range(self.rank, batches, self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        together = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(together)
        for tensor, total in zip(tensors, together.split([len(t.flatten()) for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        if tensors:
            self.add_up(tensors)
        for tensor in tensors:
            tensor /= self.size

    def any(self, flag: bool) -> bool:
        return self._reduced(float(flag)) > 0

    def of_first(self, value: float) -> float:
        return self._reduced(value if self.rank == 0 else 0.0)

    def wait(self) -> None:
        self._reduced(0.0)

    def _reduced(self, value: float) -> float:
        held = torch.tensor([value], dtype=torch.float64, device=_device())
        distributed.all_reduce(held)
        return float(held)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def assembled(recipe: Recipe) -> Iterator[Alone]:
    """Give the crew that this process is of: alone, unless torchrun started it among others.

    Raises RecipeError when a step's batches cannot be shared out evenly, or there are too few GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.batches_per_step % size:
        raise RecipeError(
            f"{size} processes cannot share {recipe.batches_per_step} batches a step: make "
            "batches_per_step in the recipe a multiple of their number (and batch_size smaller)"
        )
    if size == 1:
        yield Alone()
        return
    if torch.cuda.is_available():
        _take_gpu(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Crew()
    finally:
        distributed.destroy_process_group()


def _take_gpu(number: int) -> None:
    """Have this process compute on a GPU of its own."""
    if number >= torch.cuda.device_count():
        raise RecipeError(
            f"there are more processes than GPUs, {torch.cuda.device_count()} here: "
            "start no more than that with --nproc-per-node"
        )
    torch.cuda.set_device(number)


class Interruption:
    """Whether somebody asked this process to stop, by SIGINT (Ctrl-C) or SIGTERM; who insists is obeyed."""

    def __init__(self) -> None:
        self._asked_at = math.inf

    @property
    def asked(self) -> bool:
        return self._asked_at < math.inf

    def __enter__(self) -> "Interruption":
        # Python lets only a process's main thread listen
        listens = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._note) for number in _STOPS if listens}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._asked_at > _INSISTS_S:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self._asked_at = min(self._asked_at, now)
