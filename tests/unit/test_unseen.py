import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from hilum.network import MANIFEST, Artefact, describe, load_artefact, shipped
from tests.unit.test_evaluate import known_images
from training import unseen
from training.data import PHANTOM
from training.unseen import NothingUnseen


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    """What an artefact tells of whom it learnt from, and no more: weights play no part."""
    learnt = known_images(np.array([0, 1, 2, 3]), sources=np.array(["here", "here", "here", PHANTOM]))
    parts = np.array(["train", "validation", "test", "train"])
    recipe = {"training_phantoms": 5, "held_out_phantoms": 3}
    return unseen.remembering(silent(tmp_path / "first", recipe=recipe), learnt, parts)


def silent(folder: Path, **described: object) -> Artefact:
    """What an artefact is before it is told whom it has learnt from."""
    shutil.copytree(shipped(), folder, copy_function=os.link)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"][unseen.LEARNT]
    return describe(load_artefact(folder), {**described, "sha256": manifest["sha256"]})


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
    bare = replace(artefact, manifest={"sha256": {}})
    with pytest.raises(NothingUnseen, match=r"split\.csv"):
        unseen.unseen(bare, known_images(np.zeros(3, int)))


def test_what_the_network_before_it_learnt_from_is_not_forgotten(artefact: Artefact, tmp_path: Path) -> None:
    others = known_images(np.zeros(4, int), patients=np.array(["a", "b", "c", "d"]))
    others = replace(others, digests=np.array([f"{digest:064x}" for digest in (1, 5, 6, 7)]))
    parts = np.array(["test", "train", "validation", "test"])
    child = unseen.remembering(silent(tmp_path / "child"), others, parts, artefact)
    assert (child.folder / unseen.LEARNT).read_text().split() == [f"{n:064x}" for n in (0, 1, 5, 6)]
    assert load_artefact(child.folder).digest == child.digest
    assert unseen.unseen(child, others).tolist() == [False, False, False, True]


def test_what_comes_of_a_network_that_does_not_tell_does_not_tell_half(tmp_path: Path) -> None:
    child = silent(tmp_path / "child")
    images, parts = known_images(np.zeros(2, int)), np.array(["train", "test"])
    assert unseen.remembering(child, images, parts, child) is child


def test_held_out_phantoms_are_those_after_the_ones_learnt_from(artefact: Artefact) -> None:
    drawn = unseen.held_out_phantoms(artefact.manifest)
    assert drawn.patients.tolist() == [f"{PHANTOM}-{seed}" for seed in (8, 9, 10)]
