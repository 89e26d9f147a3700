"""Whom a network has learnt from: its artefact tells it by the digests of their images, and names nobody."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.errors import HilumError
from hilum.network import Artefact, add_file
from training import data
from training.data import PHANTOM, Images
from training.split import families

LEARNT = "learnt-images.txt"
"""The file in an artefact: the SHA-256 of every radiograph that training or a choice has used, one a line.

Those of the network that it began with are among them.
"""


class NothingUnseen(HilumError):
    """The person who evaluates must give other images, or say that those learnt from may be among them."""


def remembering(artefact: Artefact, images: Images, parts: NDArray[np.str_], *before: Artefact) -> Artefact:
    """Return the artefact, telling that it learnt from these images, and from those of the ones before it.

    These images are what is not in the test part, phantoms left out. Where one before it does not tell, the
    artefact stays as it is: half the truth would let it be tested on patients whom it knows.
    """
    if any(LEARNT not in each.manifest["sha256"] for each in before):
        return artefact
    used = images.digests[(parts != "test") & (images.sources != PHANTOM)]
    digests = sorted({*used.tolist(), *(digest for each in before for digest in _learnt(each))})
    return add_file(artefact, LEARNT, "".join(f"{digest}\n" for digest in digests).encode(), {})


def _learnt(artefact: Artefact) -> list[str]:
    return (artefact.folder / LEARNT).read_text(encoding="ascii").split()


def unseen(artefact: Artefact, images: Images) -> NDArray[np.bool_]:
    """Return for each image, (N,), whether its patient is one whom the network has not learnt from.

    A patient is known by any image that is, byte for byte, one learnt from.

    Raises
    ------
    NothingUnseen
        If the artefact does not tell, or no image is left.
    """
    if LEARNT not in artefact.manifest["sha256"]:
        raise NothingUnseen(
            f"the network in {artefact.folder} does not tell which images it learnt from: give the split.csv "
            "of its training (--split), or evaluate all images (--part all), which flatters it"
        )
    family_of = families(images)
    known = np.unique(family_of[np.isin(images.digests, _learnt(artefact))])
    apart = ~np.isin(family_of, known)
    if not apart.any():
        raise NothingUnseen(
            "the network learnt from every patient of these images, so that they cannot tell how good it is: "
            "give images of other patients, or evaluate all of them (--part all), which flatters it"
        )
    return apart


def held_out_phantoms(manifest: Mapping[str, Any]) -> Images:
    """Return the phantoms, drawn anew, on which the network of a manifest was tested."""
    recipe = manifest["recipe"]
    first = recipe["training_phantoms"] + recipe["held_out_phantoms"]
    return data.phantoms(range(first, first + recipe["held_out_phantoms"]))
