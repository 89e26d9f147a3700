from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from hilum.network import Artefact
from tests.unit.test_evaluate import known_images
from training import unseen
from training.data import PHANTOM
from training.unseen import NothingUnseen


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    """What an artefact tells of whom it learnt from, and no more: weights play no part."""
    learnt = known_images(np.array([0, 1, 2, 3]), sources=np.array(["here", "here", "here", PHANTOM]))
    parts = np.array(["train", "validation", "test", "train"])
    (tmp_path / unseen.LEARNT).write_bytes(unseen.learnt_from(learnt, parts))
    manifest = {"sha256": {unseen.LEARNT: ""}, "recipe": {"training_phantoms": 5, "held_out_phantoms": 3}}
    return Artefact(
        folder=tmp_path,
        version="",
        digest="",
        backbone="resnet50",
        labels=(),
        preprocessing="",
        temperature=1.0,
        has_map=True,
        manifest=manifest,
    )


def test_a_patient_of_whom_one_image_was_learnt_from_is_left_out_with_all_others(artefact: Artefact) -> None:
    images = known_images(np.zeros(6, int), patients=np.array(["a", "b", "c", "a", "d", "e"]))
    # 0 is trained on, 1 chose, 2 tested, 3 and on are new; a phantom's digest is not in the list
    assert unseen.unseen(artefact, images).tolist() == [False, False, True, False, True, True]


def test_who_shares_an_image_with_a_patient_learnt_from_is_taken_for_the_same_one(artefact: Artefact) -> None:
    images = known_images(np.zeros(5, int), patients=np.array(["x", "x", "y", "y", "z"]))
    digests = [0, 7, 7, 8, 9]  # 0 is trained on, 7 is of both x and y
    images = replace(images, digests=np.array([f"{digest:064x}" for digest in digests]))
    assert unseen.unseen(artefact, images).tolist() == [False, False, False, False, True]


def test_where_all_patients_were_learnt_from_nothing_is_evaluated(artefact: Artefact) -> None:
    with pytest.raises(NothingUnseen, match="--part all"):
        unseen.unseen(artefact, known_images(np.zeros(2, int)))


def test_a_network_that_does_not_tell_whom_it_learnt_from_is_not_believed(artefact: Artefact) -> None:
    silent = replace(artefact, manifest={"sha256": {}})
    with pytest.raises(NothingUnseen, match=r"split\.csv"):
        unseen.unseen(silent, known_images(np.zeros(3, int)))


def test_held_out_phantoms_are_those_after_the_ones_learnt_from(artefact: Artefact) -> None:
    drawn = unseen.held_out_phantoms(artefact.manifest)
    assert drawn.patients.tolist() == [f"{PHANTOM}-{seed}" for seed in (8, 9, 10)]
