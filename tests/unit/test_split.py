import csv
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from hilum.network import LABELS
from training import data, split
from training.split import SplitLeaks, WrongSplit

FIRST_NETWORK = "f893edb6d72bdfda1186a890a77b6ad5ed5ec59b6e45316672e7d1b5277e9c2f"
SHARES = (0.7, 0.15, 0.15)
CLASSES = {"normal": 0, "pneumonia": 1, "covid19": 2, "other": 3}


def images_of(patients: list[str], labels: list[int], digests: list[str] | None = None) -> data.Images:
    count = len(patients)
    return data.Images(
        pixels=np.zeros((count, 224, 224), np.uint8),
        labels=np.array(labels),
        sources=np.array(["somewhere"] * count),
        patients=np.array(patients),
        digests=np.array(digests or [f"{index:064x}" for index in range(count)]),
        views=np.array(["PA"] * count),
        sexes=np.array(["F"] * count),
        ages_years=np.array([61.0] * count),
    )


def some_patients(count: int = 200, patients: int = 70) -> data.Images:
    return images_of(
        [f"patient-{index % patients}" for index in range(count)], [index % 4 for index in range(count)]
    )


def test_no_patient_is_in_two_parts() -> None:
    images = some_patients()
    parts = split.parts(images, SHARES, seed=1)
    for patient in set(images.patients):
        assert len(set(parts[images.patients == patient])) == 1


def test_every_part_and_every_fold_holds_about_the_same_mix() -> None:
    labels = [0] * 400 + [1] * 200 + [2] * 100
    images = images_of([f"patient-{index}" for index in range(700)], labels)
    parts = split.parts(images, SHARES, seed=1)
    folds = split.folds(images, 5, seed=1)
    for label, count in ((0, 400), (1, 200), (2, 100)):
        of_label = images.labels == label
        assert np.count_nonzero((parts == "test") & of_label) == pytest.approx(0.15 * count, abs=1)
        assert np.bincount(folds[of_label]).tolist() == pytest.approx([count / 5] * 5, abs=1)


def test_split_and_folds_do_not_hang_on_the_order_of_the_images() -> None:
    images = some_patients()
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = images.where(order)
    np.testing.assert_array_equal(split.parts(images, SHARES, 1)[order], split.parts(shuffled, SHARES, 1))
    np.testing.assert_array_equal(split.folds(images, 5, 1)[order], split.folds(shuffled, 5, 1))


def test_another_seed_splits_otherwise() -> None:
    images = some_patients(count=100, patients=100)
    assert (split.parts(images, SHARES, 1) != split.parts(images, SHARES, 2)).any()


def test_patients_who_share_an_image_stay_together() -> None:
    count = 60
    patients = [f"patient-{index:02d}" for index in range(count)]
    digests = [f"{index // 3:064x}" for index in range(count)]
    images = images_of(patients, [0] * count, digests)
    assert set(split.families(images)) == set(patients[::3])
    split.require_apart(images, split.parts(images, SHARES, 1))
    for fold in split.folds(images, 5, 1).reshape(-1, 3):
        assert len(set(fold)) == 1


def test_patients_are_together_through_others_too() -> None:
    images = images_of(["b", "a", "a", "c", "d"], [0] * 5, ["1", "1", "2", "2", "3"])
    assert split.families(images).tolist() == ["a", "a", "a", "a", "d"]


def test_a_split_comes_back_from_its_file_with_the_digest_of_the_data(tmp_path: Path) -> None:
    images = some_patients()
    parts = split.parts(images, SHARES, seed=1)
    split.write(tmp_path / "split.csv", images, parts)
    assert data.digest(images, parts) in (tmp_path / "split.csv").read_text().splitlines()[0]
    some = images.where(np.arange(50))
    np.testing.assert_array_equal(split.read(tmp_path / "split.csv", some), parts[:50])


def test_a_patient_on_both_sides_is_refused_by_name(tmp_path: Path) -> None:
    images = some_patients()
    parts = split.parts(images, SHARES, seed=1)
    leaking = images.patients == "patient-7"
    parts[np.flatnonzero(leaking)[0]] = "test" if parts[leaking][0] != "test" else "train"
    for refuses in (split.require_apart, partial(split.write, tmp_path / "split.csv")):
        with pytest.raises(SplitLeaks, match="1 patients") as leaks:
            refuses(images, parts)
        assert leaks.value.in_detail == ["patient-7"]
        assert "patient-7" not in str(leaks.value)  # which a log may show
    assert not (tmp_path / "split.csv").exists()


def test_a_patient_moved_by_hand_is_refused_by_name(tmp_path: Path) -> None:
    images = some_patients()
    split.write(tmp_path / "split.csv", images, split.parts(images, SHARES, seed=1))
    lines = (tmp_path / "split.csv").read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if line.endswith(",train"))
    lines[place] = lines[place].removesuffix("train") + "test"
    (tmp_path / "split.csv").write_text("\n".join(lines))
    with pytest.raises(SplitLeaks) as leaks:
        split.read(tmp_path / "split.csv", images)
    assert leaks.value.in_detail == [lines[place].split(",")[0]]


def test_a_copy_of_an_image_on_the_other_side_is_refused() -> None:
    images = images_of(["a", "b", "c"], [0, 0, 0], ["1", "1", "2"])
    with pytest.raises(SplitLeaks, match="sha256 1") as leaks:
        split.require_apart(images, np.array(["train", "test", "train"]))
    assert leaks.value.in_detail == ["a", "b"]


def test_a_split_names_patients_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    images = some_patients()
    split.write(tmp_path / "split.csv", images, split.parts(images, SHARES, seed=1))
    assert (tmp_path / "split.csv").stat().st_mode & 0o077 == 0


def test_an_altered_split_is_refused(tmp_path: Path) -> None:
    images = some_patients(count=40, patients=40)
    split.write(tmp_path / "split.csv", images, split.parts(images, SHARES, seed=1))
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(text.replace(",train", ",test", 1))
    with pytest.raises(WrongSplit, match="altered"):
        split.read(tmp_path / "split.csv", images)


def test_the_split_of_other_images_is_refused(tmp_path: Path) -> None:
    split.write(tmp_path / "split.csv", some_patients(), split.parts(some_patients(), SHARES, seed=1))
    with pytest.raises(WrongSplit, match="1 of 1 images"):
        split.read(tmp_path / "split.csv", images_of(["a"], [0], ["unheard of"]))


@pytest.mark.parametrize(
    "content", [b"patient_id,part\na,train\n", b"", b"# data digest\n", b"\xe4,part", b"a" * 200_000]
)
def test_a_file_that_is_no_split_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(WrongSplit, match="no split"):
        split.read(tmp_path / "split.csv", some_patients())


def test_the_test_patients_of_the_first_network_stay_unseen(shared_data: Path) -> None:
    """The digest stands in that network's manifest, among its 2,800 phantoms."""
    with (shared_data / "cxr" / "manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    real = images_of(
        [row["patient_id"] for row in rows],
        [CLASSES[row["class"]] for row in rows],
        [row["sha256"] for row in rows],
    )
    sources = np.array([row["source_dataset"] for row in rows])
    parts = split.parts(data.Images(**{**vars(real), "sources": sources}), SHARES, seed=2026)
    names = [(seed, LABELS[seed % 4]) for seed in range(2800)]
    phantoms = [(hashlib.sha256(f"{seed} {label}".encode()).hexdigest(), label) for seed, label in names]
    of_phantoms = ["train"] * 2400 + ["validation"] * 200 + ["test"] * 200
    everything = [
        *zip(real.digests.tolist(), [LABELS[label] for label in real.labels], parts.tolist(), strict=True),
        *((image, label, part) for (image, label), part in zip(phantoms, of_phantoms, strict=True)),
    ]
    assert data.digest_of(everything) == FIRST_NETWORK
