"""Whether an image may be read at all, told from its header alone.

The network knows frontal chest radiographs of people of 16 or more. Everything else is recorded as
not assessed, with a reason; where a header contradicts itself, the image is not read.
"""

import re
from datetime import date
from enum import StrEnum

from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

from hilum.header import text

RADIOGRAPHS = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
    }
)
"""Storage SOP classes of CR and DX images; a study without any is not reported on."""
YOUNGEST_YEARS = 16


class Reason(StrEnum):
    """Why an image is not assessed; ends the sentence "Not assessed, because ..."."""

    SECONDARY_CAPTURE = "it is a secondary capture, not an original radiograph"
    NOT_CR_OR_DX = "it is not a CR or DX image"
    FOR_PROCESSING = "it is For Processing, raw detector data that nobody reads"
    COLOUR = "the image is in colour"
    MULTI_FRAME = "the image has more than one frame"
    OTHER_BODY_PART = "the body part is not the chest"
    UNKNOWN_BODY_PART = "nothing in the header says that it shows the chest"
    LATERAL = "the view is lateral"
    OTHER_VIEW = "the view is neither PA nor AP"
    UNKNOWN_VIEW = "the view is unknown"
    CHILD = f"the patient is younger than {YOUNGEST_YEARS} years"


class View(StrEnum):
    """From where the X-rays came; FRONTAL is PA or AP, left unsaid which."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "FRONTAL"
    LATERAL = "LATERAL"
    OTHER = "OTHER"
    UNKNOWN = ""


def why_not_assessed(header: Dataset) -> str | None:
    """Return why the image may not be read, as the end of "Not assessed, because ..."; None when it may.

    Only attributes are looked at. An image of which nothing says the age is read; an image of
    which nothing says that it shows the chest, or from where, is not. Phantoms pass as patients do.
    """
    rules = (_kind, _pixels, _body_part, _view, _age)
    return next((reason for rule in rules if (reason := rule(header)) is not None), None)


def view_of(header: Dataset) -> View:
    """Return the view that the header tells.

    View Code Sequence, View Position and the texts about this image (not those about the study, which names
    every view it asks for) all have their say. One that says lateral or oblique outweighs the
    others: View Position is often left at what the console offered.
    """
    views = [view for view in _views_said(header) if view is not None]
    for decisive in (View.LATERAL, View.OTHER):
        if decisive in views:
            return decisive
    return views[0] if views else View.UNKNOWN


_SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds, .1 to .4


def _kind(header: Dataset) -> Reason | None:
    sop_class = text(header, "SOPClassUID")
    if f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURES}."):
        return Reason.SECONDARY_CAPTURE
    if sop_class not in RADIOGRAPHS or text(header, "Modality") not in ("CR", "DX", ""):
        return Reason.NOT_CR_OR_DX
    raw = sop_class == DigitalXRayImageStorageForProcessing
    if raw or text(header, "PresentationIntentType") == "FOR PROCESSING":
        return Reason.FOR_PROCESSING
    return None


def _pixels(header: Dataset) -> Reason | None:
    if text(header, "SamplesPerPixel") not in ("1", ""):
        return Reason.COLOUR
    if text(header, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2", ""):
        return Reason.COLOUR
    return None if text(header, "NumberOfFrames") in ("1", "0", "") else Reason.MULTI_FRAME


# DICOM's CID 4031 in SNOMED CT and in the older SRT codes: chest, thorax, lung
_CHEST_CODES = {"816094009", "51185008", "39607008", "T-D3000", "T-28000"}
_CHEST = re.compile(r"\b(CHEST\w*|THORA[XC]\w*|TORA[XC]\w*|LUNGS?|LUNGE\w*|CXR|PULMON\w*|POUMONS?)\b")
_ELSEWHERE = re.compile(
    r"\b(ABDOM\w*|BREAST\w*|CLAVIC\w*|COLUMNA|RIBS?|SCAPUL\w*|SHOULDER\w*|\w*SPINE|SPINAL|STERNUM|BWS|\w*WIRBEL\w*"
    r"|HEAD|SKULL|NECK|TEETH|TOOTH|DENTAL|JAW|PELVIS|HIPS?|ARMS?|HANDS?|WRISTS?|FINGERS?|ELBOWS?|LEGS?|KNEES?"
    r"|ANKLES?|FOOT|FEET|TOES?|FEMUR|TIBIA|HUMERUS|FOREARM|EXTREMIT\w*|KUB)\b"
)
_SAYS_NOTHING = {"UNKNOWN", "UNDEFINED", "OTHER", "OTHERS", "NONE", "NA", "N A"}
_ABOUT_THE_IMAGE = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
_ABOUT_THE_STUDY = ("PerformedProcedureStepDescription", "RequestedProcedureDescription", "StudyDescription")


def _body_part(header: Dataset) -> Reason | None:
    """Anatomic Region, Body Part Examined, the texts: the first that says anything decides.

    Many CR systems leave Body Part Examined empty, but their texts name the examination.
    """
    said = (_is_chest_code(header), _is_chest_word(header), *_are_chest_texts(header))
    is_chest = next((answer for answer in said if answer is not None), None)
    if is_chest is None:
        return Reason.UNKNOWN_BODY_PART
    return None if is_chest else Reason.OTHER_BODY_PART


def _is_chest_code(header: Dataset) -> bool | None:
    code, meaning = _code(header, "AnatomicRegionSequence")
    if not code:
        return None
    return code in _CHEST_CODES or bool(_names_chest(meaning))


def _is_chest_word(header: Dataset) -> bool | None:
    body_part = _words(text(header, "BodyPartExamined"))
    if body_part in _SAYS_NOTHING or not body_part:
        return None
    return bool(_names_chest(body_part))


def _are_chest_texts(header: Dataset) -> list[bool | None]:
    return [_names_chest(_words(text(header, name))) for name in _ABOUT_THE_IMAGE + _ABOUT_THE_STUDY]


def _names_chest(words: str) -> bool | None:
    """False for another body part too, such as "thoracic spine" and "chest and abdomen"; None for none."""
    if _ELSEWHERE.search(words):
        return False
    return True if _CHEST.search(words) else None


# DICOM's CID 4010 in SNOMED CT and in the older SRT codes
_VIEW_CODES = {
    "272479007": View.PA,
    "R-10214": View.PA,
    "399348003": View.AP,
    "R-10206": View.AP,
    "399033003": View.FRONTAL,
    "399067008": View.LATERAL,
    "399173006": View.LATERAL,
    "R-10236": View.LATERAL,
    "399198007": View.LATERAL,
    "R-10232": View.LATERAL,
}
_VIEW_WORDS = {
    View.PA: re.compile(r"\b(PA|POSTERO ?ANTERIOR)\b"),
    View.AP: re.compile(r"\b(AP|ANTERO ?POSTERIOR)\b"),
    View.FRONTAL: re.compile(r"\b(FRONTAL\w*|FACE)\b"),
    View.LATERAL: re.compile(r"\b([LR]?LAT|LATERAL\w*|LL|RL|PROFIL\w*|PERFIL|SEITL\w*)\b"),
    View.OTHER: re.compile(r"\b(OBL\w*|[LR][AP]O|[LR]L[OD]|DECUB\w*|LORDOTIC|AXIAL)\b"),
}
_FRONTAL = {View.PA, View.AP, View.FRONTAL}
_REASON_OF_VIEW = {
    View.LATERAL: Reason.LATERAL,
    View.OTHER: Reason.OTHER_VIEW,
    View.UNKNOWN: Reason.UNKNOWN_VIEW,
}


def _view(header: Dataset) -> Reason | None:
    return _REASON_OF_VIEW.get(view_of(header))


def _views_said(header: Dataset) -> list[View | None]:
    code, meaning = _code(header, "ViewCodeSequence")
    coded = _VIEW_CODES.get(code) or _named_view(meaning)
    texts = ("ViewPosition", *_ABOUT_THE_IMAGE)
    return [coded, *(_named_view(_words(text(header, name))) for name in texts)]


def _named_view(words: str) -> View | None:
    """The view that a text names; None when it names none, or one that is frontal and one that is not."""
    named = {view for view, pattern in _VIEW_WORDS.items() if pattern.search(words)}
    if not named or (named & _FRONTAL and named - _FRONTAL):
        return None
    if named <= _FRONTAL:
        return named.pop() if len(named) == 1 else View.FRONTAL
    return View.LATERAL if View.LATERAL in named else View.OTHER


_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")


def _age(header: Dataset) -> Reason | None:
    """A child when Patient's Age or the dates say so."""
    ages_years = (_stated_age_years(header), _counted_age_years(header))
    young = any(age is not None and age < YOUNGEST_YEARS for age in ages_years)
    return Reason.CHILD if young else None


def _stated_age_years(header: Dataset) -> float | None:
    match = _AGE.fullmatch(text(header, "PatientAge"))
    return int(match[1]) / _PER_YEAR[match[2]] if match else None


def _counted_age_years(header: Dataset) -> float | None:
    birth = _date(header, "PatientBirthDate")
    study = _date(header, "StudyDate") or _date(header, "AcquisitionDate")
    if birth is None or study is None:
        return None
    return study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))


def _date(header: Dataset, keyword: str) -> date | None:
    match = _DATE.fullmatch(text(header, keyword))
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _code(header: Dataset, keyword: str) -> tuple[str, str]:
    """Code Value and the words of Code Meaning of a code sequence's first item; empty when there is none."""
    try:
        item = header[keyword].value[0]
    except (KeyError, IndexError, TypeError):
        return "", ""
    return text(item, "CodeValue"), _words(text(item, "CodeMeaning"))


def _words(value: str) -> str:
    """Upper case words with single spaces: "Thorax p.a.", "CHEST_PA" and "chest - PA" alike."""
    return re.sub(r"[\W_]+", " ", value.upper().replace(".", "")).strip()
