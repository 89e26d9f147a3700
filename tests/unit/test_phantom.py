import shutil
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hilum.phantom import LABELS, PATIENT_ID_PREFIX, draw, is_phantom, phantom

ROWS, COLUMNS = 320, 262
LESIONS = tuple(label for label in LABELS if label != "Normal")
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless)


def small(seed: int, label: str) -> NDArray[np.float32]:
    return draw(seed, label, rows=ROWS, columns=COLUMNS)


def lesion(seed: int, label: str) -> NDArray[np.float32]:
    """What the label alone changes in the picture."""
    return small(seed, label) - small(seed, "Normal")


def written(ds: FileDataset) -> bytes:
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def small_phantom(seed: int = 3, label: str = "Other", **how: str | UID) -> FileDataset:
    return phantom(seed, label, rows=ROWS, columns=COLUMNS, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", LABELS)
def test_a_picture_has_the_size_asked_for_and_values_from_black_to_white(label: str) -> None:
    image = small(1, label)
    assert image.shape == (ROWS, COLUMNS)
    assert image.dtype == np.float32
    assert 0 <= image.min() < 0.1
    assert 0.6 < image.max() <= 1


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    assert np.array_equal(small(5, "Pneumonia"), small(5, "Pneumonia"))
    assert np.abs(small(5, "Pneumonia") - small(6, "Pneumonia")).mean() > 0.03


def test_a_small_picture_is_the_large_one_seen_from_afar() -> None:
    large = Image.fromarray(draw(2, "COVID-19", rows=2500, columns=2048))
    reduced = np.asarray(large.resize((COLUMNS, ROWS), Image.Resampling.BOX))
    assert np.corrcoef(reduced.ravel(), small(2, "COVID-19").ravel())[0, 1] > 0.99


def test_lungs_are_dark_and_the_heart_lies_to_the_viewers_right() -> None:
    mean = np.mean([small(seed, "Normal") for seed in range(24)], axis=0)
    right_lung, left_lung = mean[120:170, 60:90], mean[120:150, 175:200]
    spine, abdomen = mean[150:190, 125:137], mean[265:300, 80:180]
    assert max(right_lung.mean(), left_lung.mean()) + 0.2 < min(spine.mean(), abdomen.mean())
    assert mean[180:210, 150:165].mean() > mean[180:210, 97:112].mean() + 0.1


@pytest.mark.parametrize("label", LESIONS)
def test_every_lesion_is_seen_at_a_glance(label: str) -> None:
    for seed in range(30):
        change = lesion(seed, label)
        assert change.max() > 0.2, seed
        assert (change > 0.1).mean() > 0.01, f"{seed}: a hundredth of the picture is clearly whiter"


def test_ground_glass_is_in_both_lungs_and_nearer_to_the_chest_wall() -> None:
    changes = [np.clip(lesion(seed, "COVID-19"), 0, None) for seed in range(20)]
    for change in changes:
        assert min((change[:, :125] > 0.1).mean(), (change[:, 137:] > 0.1).mean()) > 0.02
    across = np.mean(changes, axis=(0, 1))
    assert across[30:80].sum() + across[182:232].sum() > 1.5 * across[81:181].sum()


def test_pneumonia_is_in_one_lung_only() -> None:
    for seed in range(30):
        change = lesion(seed, "Pneumonia") > 0.1
        assert min(change[:, :110].mean(), change[:, 152:].mean()) == 0, seed


@pytest.mark.parametrize("label", LESIONS)
def test_nothing_but_the_lesion_tells_the_label(label: str) -> None:
    for seed in range(12):
        change = np.abs(lesion(seed, label))
        assert change[:25].mean() < 0.01, "shoulders and neck"
        assert change[-25:].mean() < 0.01, "abdomen"


@pytest.mark.parametrize(
    ("seed", "label"),
    [(1, "Tuberculosis"), (1, "normal"), (-1, "Normal")],
    ids=["unknown", "case", "negative"],
)
def test_what_cannot_be_drawn_is_refused(seed: int, label: str) -> None:
    with pytest.raises(ValueError, match=r"phantom|non-negative"):
        draw(seed, label, rows=64, columns=52)


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_the_object_is_valid_in_every_transfer_syntax(
    syntax: UID, photometric_interpretation: str, tmp_path: Path
) -> None:
    verifier = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if verifier is None:
        pytest.skip("dciodvfy is not installed")
    ds = small_phantom(transfer_syntax_uid=syntax, photometric_interpretation=photometric_interpretation)
    ds.save_as(tmp_path / "phantom.dcm", enforce_file_format=True)
    said = subprocess.run([verifier, tmp_path / "phantom.dcm"], capture_output=True, text=True, check=False)
    assert "DXImageForPresentation" in said.stderr
    assert "Error" not in said.stdout + said.stderr


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_the_window_shows_what_was_drawn(syntax: UID, photometric_interpretation: str) -> None:
    ds = small_phantom(transfer_syntax_uid=syntax, photometric_interpretation=photometric_interpretation)
    read = dcmread(BytesIO(written(ds)))
    shown = apply_windowing(read.pixel_array, read) / 4095
    bone_white = 1 - shown if photometric_interpretation == "MONOCHROME1" else shown
    assert np.abs(bone_white - small(3, "Other")).max() < 1e-3


def test_a_full_phantom_is_a_hospitals_dx_object() -> None:
    ds = phantom(12, "Normal")
    assert (ds.Rows, ds.Columns, ds.BitsStored, ds.BitsAllocated) == (2500, 2048, 12, 16)
    assert ds.pixel_array.max() <= 4095
    assert (ds.Modality, ds.BodyPartExamined, ds.ViewPosition) == ("DX", "CHEST", "PA")
    assert ds.PatientName == "Phantom^Seed 12"
    assert int(ds.PatientAge[:3]) >= 18
    assert ds.QualityControlImage == "YES"


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_the_same_seed_gives_the_same_bytes(syntax: UID) -> None:
    digests = {sha256(written(small_phantom(transfer_syntax_uid=syntax))).digest() for _ in range(2)}
    assert len(digests) == 1


def test_objects_that_differ_have_uids_that_differ() -> None:
    objects = [
        small_phantom(),
        small_phantom(seed=4),
        small_phantom(label="Normal"),
        small_phantom(transfer_syntax_uid=JPEG2000Lossless),
        small_phantom(photometric_interpretation="MONOCHROME1"),
        small_phantom(view_position="AP"),
        small_phantom(study_uid="2.25.7"),
        phantom(3, "Other", rows=160, columns=131),
    ]
    assert len({ds.SOPInstanceUID for ds in objects}) == len(objects)


def test_two_views_can_share_a_study() -> None:
    views = [small_phantom(study_uid="2.25.7", view_position=view) for view in ("PA", "LL")]
    assert {ds.StudyInstanceUID for ds in views} == {"2.25.7"}
    assert [ds.ViewPosition for ds in views] == ["PA", "LL"]


def test_an_unknown_view_and_a_colour_image_are_refused() -> None:
    with pytest.raises(ValueError, match="OBLIQUE"):
        small_phantom(view_position="OBLIQUE")
    with pytest.raises(ValueError, match="RGB"):
        small_phantom(photometric_interpretation="RGB")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_a_phantom_is_known_again_after_its_journey(syntax: UID) -> None:
    read = dcmread(BytesIO(written(small_phantom(transfer_syntax_uid=syntax))))
    del read.QualityControlImage
    assert is_phantom(read)


def test_a_phantom_is_known_where_a_pacs_took_the_private_tags_away() -> None:
    ds = small_phantom()
    ds.remove_private_tags()
    assert is_phantom(ds)


def test_a_patient_is_no_phantom() -> None:
    quality_control, namesake, private, empty = Dataset(), Dataset(), small_phantom(), Dataset()
    quality_control.PatientID, quality_control.QualityControlImage = "4711", "YES"
    namesake.PatientID = PATIENT_ID_PREFIX + "12"
    private.PatientID = "4711"
    assert not any(is_phantom(ds) for ds in (quality_control, namesake, private, empty))
