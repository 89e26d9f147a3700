"""What a study's results are, ready to be rendered as DICOM objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from hilum.labels import CODES
from hilum.network import LABELS

FINDING_CODES: Mapping[str, Code] = {label: Code(*CODES[label]) for label in LABELS}
"""The code that says each of the network's labels."""


@dataclass(frozen=True)
class ReadImage:
    """One image of the study that was considered, and what came of it.

    `header` is the source instance's data set without pixels. When the image was not assessed,
    `not_assessed_because` ends the sentence "Not assessed, because ...", and `label` and `probabilities` (in
    [0, 1], by label) are None; so is `ood` (out-of-distribution score), unless the network refused it.
    """

    header: Dataset
    view: str
    not_assessed_because: str | None
    label: str | None
    probabilities: Mapping[str, float] | None
    ood: float | None


@dataclass(frozen=True)
class NetworkName:
    """Which network read: its version (like "first-2026-11") and the sha256 of its weights in hex."""

    version: str
    digest: str


@dataclass(frozen=True)
class Predecessor:
    """The report that a new revision replaces."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    uid: str


@dataclass(frozen=True)
class StudyResult:
    """One revision of what we say about a study; `images` is not empty, `created` is aware.

    `heat_maps` are the Secondary Captures made for this revision; the report refers to them. `network` is
    None when it read no image. `edition` tells this report from any other of the study, also from one with
    the same number: UIDs are derived from it.
    """

    study_uid: str
    revision: int
    edition: str
    network: NetworkName | None
    images: Sequence[ReadImage]
    created: datetime
    predecessors: Sequence[Predecessor]
    heat_maps: Sequence[Dataset]
