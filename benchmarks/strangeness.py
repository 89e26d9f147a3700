"""How well a network knows strangers: `python benchmarks/strangeness.py --images FOLDER [--dicom FOLDER]`.

`--images` are labelled frontal radiographs, as `hilum train` takes them; those of patients whom the network
has learnt from are left out. `--dicom` are DICOM files of anything else. Prints JSON: shares of radiographs
refused, by source; shares of strangers caught, by kind, and the probability that one is stranger than a
radiograph (AUROC); and the share of all strangers caught if the limit refused more or fewer radiographs.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from sklearn.metrics import roc_auc_score

from hilum.engine import Engine, choose_engine
from hilum.errors import NotARadiograph, Undecodable
from hilum.network import load_artefact, shipped
from hilum.radiograph import network_input, to_display
from hilum.strangeness import LIMIT
from training import data, reader
from training.strangers import KINDS, UNSEEN, strangers
from training.unseen import unseen

REFUSED_PERCENT = (0.5, 1, 2, 5)
Scores = dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=Path, default=shipped(), help="folder of an artefact")
    parser.add_argument("--images", type=Path, required=True, help="folder of labelled radiographs")
    parser.add_argument("--manifest", type=Path, help="their CSV file, if it is not in the folder")
    parser.add_argument("--cache", type=Path, help="where decoded images are kept, if not beside them")
    parser.add_argument("--dicom", type=Path, help="folder of DICOM files that are no chest radiographs")
    parser.add_argument("--phantoms", type=int, default=100)
    parser.add_argument("--per-kind", type=int, default=100, help="radiographs that strangers are made of")
    arguments = parser.parse_args()
    engine = choose_engine(load_artefact(arguments.network))
    images = reader.read(arguments.images, manifest=arguments.manifest, cache=arguments.cache)
    images = images.where(unseen(engine.artefact, images))
    drawn = data.phantoms(range(10**6, 10**6 + arguments.phantoms))
    known = {
        "all radiographs": scores(engine, images.pixels),
        data.PHANTOM: scores(engine, drawn.pixels),
    }
    for source in np.unique(images.sources):
        known[str(source)] = known["all radiographs"][images.sources == source]
    made = made_of(images.pixels, arguments.per_kind)
    if arguments.dicom:
        made["DICOM files"] = np.stack(list(inputs(arguments.dicom)))
    strange = {name: scores(engine, pixels) for name, pixels in made.items()}
    print(json.dumps(summary(engine, known, strange), indent=1))


def made_of(pixels: NDArray[np.uint8], count: int) -> dict[str, NDArray[np.uint8]]:
    some = pixels[np.random.default_rng(0).permutation(len(pixels))[:count]]
    return {name: strangers(some, {name: kind}) for name, kind in {**KINDS, **UNSEEN}.items()}


def summary(engine: Engine, known: Scores, strange: Scores) -> dict[str, Any]:
    usual, together = known["all radiographs"], np.concatenate(list(strange.values()))
    limits = {percent: np.percentile(usual, 100 - percent) for percent in REFUSED_PERCENT}
    return {
        "network": engine.artefact.version,
        "engine": f"{engine.name} {engine.precision}",
        "refused": {name: refused(values) for name, values in known.items()},
        "caught": {
            name: {**refused(values), "auroc": auroc(usual, values), "learnt": name in KINDS}
            for name, values in strange.items()
        },
        "caught_if_radiographs_refused_percent": {
            percent: round(float(np.mean(together > limit)), 4) for percent, limit in limits.items()
        },
    }


def scores(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = [np.ascontiguousarray(pixels[start : start + 32]) for start in range(0, len(pixels), 32)]
    return np.concatenate([engine.read(batch).ood for batch in batches])


def refused(values: NDArray[np.float32]) -> dict[str, float]:
    return {"images": len(values), "share": round(float(np.mean(values > LIMIT)), 4)}


def auroc(known: NDArray[np.float32], strange: NDArray[np.float32]) -> float:
    is_strange = np.repeat([0, 1], [len(known), len(strange)])
    return round(float(roc_auc_score(is_strange, np.concatenate([known, strange]))), 4)


def inputs(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the network's input of each gray single-frame image below a folder."""
    for file in sorted(folder.rglob("*.dcm")):
        try:
            yield network_input(to_display(dcmread(file, force=True)))
        except (NotARadiograph, Undecodable):
            continue


if __name__ == "__main__":
    main()
