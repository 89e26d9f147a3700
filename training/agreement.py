"""How far the engines' answers lie apart: the same artefact, read by each, compared with torch in float32."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.engine import Engine, OnnxRuntimeEngine, OpenVinoEngine, Reading, named_engine
from hilum.network import Artefact, describe

_BATCH = 16


def state(artefact: Artefact, pixels: NDArray[np.uint8]) -> Artefact:
    """Return the artefact, its manifest's `engines` saying how far each is from torch.

    That is on images (N, 224, 224) uint8. bf16 is among them where this machine's processor computes with it.
    """
    expected = read(named_engine(artefact, "torch"), pixels)
    engines: list[Engine] = [OpenVinoEngine(artefact, "fp32"), OnnxRuntimeEngine(artefact, "fp32")]
    best = OpenVinoEngine(artefact)
    if best.precision != "fp32":
        engines.append(best)
    told = [difference(engine, read(engine, pixels), expected) for engine in engines]
    return describe(artefact, {"engines": {"images": len(pixels), "from_torch_fp32": told}})


def difference(engine: Engine, said: Reading, expected: Reading) -> dict[str, Any]:
    """Return the most that anything an engine said is away from what was expected, by name."""
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "max_abs_difference_logits": _most(said.logits, expected.logits),
        "max_abs_difference_probabilities": _most(said.probabilities, expected.probabilities),
        "max_abs_difference_strangeness": _most(said.ood, expected.ood),
    }


def read(engine: Engine, pixels: NDArray[np.uint8]) -> Reading:
    """Return the reading of any number of images, without the features, which would fill the memory."""
    readings = [
        replace(engine.read(batch), features=np.empty(len(batch), np.float32)) for batch in batches(pixels)
    ]
    return Reading(
        *(np.concatenate(parts) for parts in zip(*(vars(each).values() for each in readings), strict=True))
    )


def batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield images in memory, some at a time, of an array that may lie in a file."""
    return (np.ascontiguousarray(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH))


def _most(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max())
