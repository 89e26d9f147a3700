"""The micro-batcher: images of many studies, read together by one engine."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hilum.engine import Engine, Reading
from hilum.errors import MachineAtFault

FAILURES_BEFORE_RESTART = 5
_REMEMBERED = 1000

log = logging.getLogger(__name__)


@dataclass
class _Asked:
    image: NDArray[np.uint8]
    alone: bool
    answer: Future[Reading] = field(default_factory=Future)
    at: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads hand in images and wait; one thread runs the engine on what has gathered meanwhile.

    Nothing waits for a batch to fill: under load batches grow by themselves, and a single image is
    read at once. `restart` is called when the engine has failed five times in a row: what a broken
    graphics driver has done to this process, only another process is free of.
    """

    def __init__(self, engine: Engine, *, batch_images: int, restart: Callable[[], None]) -> None:
        self.engine = engine
        self._batch_images = batch_images
        self._restart = restart
        self._failures = 0
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._held_over: _Asked | None = None
        self._sizes: deque[int] = deque(maxlen=_REMEMBERED)
        self._waits_s: deque[float] = deque(maxlen=_REMEMBERED)
        threading.Thread(target=self._run_for_ever, name="batcher", daemon=True).start()

    def read(self, images: list[NDArray[np.uint8]], *, alone: bool = False) -> list[Reading]:
        """Return one reading, of a batch of one, for each (224, 224) uint8 image.

        `alone` keeps them out of the batches of others: their study has killed a worker before.
        Raises MachineAtFault when the engine fails: inputs are all alike to it, so no image is to blame.
        """
        asked = [_Asked(image, alone) for image in images]
        for each in asked:
            self._asked.put(each)
        return [each.answer.result() for each in asked]

    def close(self) -> None:
        """End the thread, once nobody asks any more."""
        self._asked.put(None)

    def statistics(self) -> dict[str, float | int]:
        """Sizes of the last batches, and seconds from asking to answer of the last images."""
        sizes, waits_s = list(self._sizes), list(self._waits_s)
        return {
            "batches": len(sizes),
            "images_mean": round(float(np.mean(sizes)), 2) if sizes else 0,
            "images_max": max(sizes, default=0),
            "latency_p50_s": round(float(np.percentile(waits_s, 50)), 4) if waits_s else 0,
            "latency_p95_s": round(float(np.percentile(waits_s, 95)), 4) if waits_s else 0,
        }

    def _run_for_ever(self) -> None:
        while (first := self._next()) is not None:
            self._run(self._gather(first))

    def _gather(self, first: _Asked) -> list[_Asked]:
        batch = [first]
        while not first.alone and len(batch) < self._batch_images:
            try:
                another = self._asked.get_nowait()
            except queue.Empty:
                break
            if another is None:
                self.close()
                break
            if another.alone:
                self._held_over = another
                break
            batch.append(another)
        return batch

    def _next(self) -> _Asked | None:
        """What is to be read first; None when nothing is any more."""
        held_over, self._held_over = self._held_over, None
        return held_over or self._asked.get()

    def _run(self, batch: list[_Asked]) -> None:
        try:
            together = self.engine.read(np.stack([each.image for each in batch]))
        except Exception as error:  # the engine's libraries can raise anything; each asker is told
            self._fail(batch, error)
            return
        self._failures = 0
        self._sizes.append(len(batch))
        for index, each in enumerate(batch):
            self._waits_s.append(time.monotonic() - each.at)
            each.answer.set_result(_one_of(together, index))

    def _fail(self, batch: list[_Asked], error: Exception) -> None:
        log.error("the engine failed at a batch of %d", len(batch), exc_info=error)
        for each in batch:
            words = f"the engine fails: {type(error).__name__}: {error}"
            each.answer.set_exception(MachineAtFault(words))
        self._failures += 1
        if self._failures == FAILURES_BEFORE_RESTART:
            log.error("the engine failed %d times in a row; this process ends", self._failures)
            self._restart()


def _one_of(together: Reading, index: int) -> Reading:
    here = slice(index, index + 1)
    return Reading(**{name: values[here] for name, values in vars(together).items()})
