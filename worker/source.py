"""A source PACS as we ask it: what it has of a day, by C-FIND, and what never came, by C-MOVE or C-GET."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from hilum import pacs
from hilum.eligibility import RADIOGRAPHS
from hilum.errors import PacsUnavailable, RefusedByPacs
from hilum.header import text
from hilum.pacs import Peer
from hilum.radiograph import decodable_transfer_syntaxes
from hilum.settings import Sender, Settings
from hilum.uids import is_uid

log = logging.getLogger(__name__)

GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
MODALITIES = ("CR", "DX")
FETCH_TIMEOUT_S = 600
"""Seconds without a word while images travel: to tell how it goes on is an option of C-MOVE and C-GET."""
MOST_BELIEVED = 100
"""Studies in an answer that is surely whole; a longer one may have been cut off by the source, silently."""
_OF_A_STUDY = ("StudyInstanceUID", "AccessionNumber", "StudyTime")
_QUERIES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_DESTINATION_UNKNOWN = 0xA801
"""C-MOVE status, PS3.4 C.4.2.1.5."""

Keep = Callable[[Event], "int | Dataset"]
"""Keeps an object that came by C-GET, and answers as a C-STORE is answered."""


@dataclass(frozen=True)
class Listed:
    """A study that a source has, with its CR and DX images."""

    study_uid: str
    accession_number: str
    study_time: str
    """As the source writes it: HHMMSS.FFFFFF, or less of it."""
    series: Mapping[str, frozenset[str]]
    """Series Instance UID -> SOP Instance UIDs."""

    @property
    def uids(self) -> frozenset[str]:
        """The SOP Instance UIDs of its CR and DX images."""
        return frozenset().union(*self.series.values())


def listed(source: Sender, ours: Settings, day: date) -> list[Listed]:
    """The studies with CR or DX images that a source has of this Study Date.

    Asked for by the day, and where that answer is long, hour by hour of Study Time too.

    Raises
    ------
    PacsUnavailable
        When it is away, or does not answer in a way that can be read.
    RefusedByPacs
        When it does not do C-FIND.
    """
    contexts = [build_context(pacs.FIND, [*_QUERIES])]
    with _associated(source, ours, contexts) as assoc:
        found = {uid: ds for ds in _studies(assoc, day) if is_uid(uid := text(ds, "StudyInstanceUID"))}
        studies = [
            Listed(uid, text(ds, "AccessionNumber")[:64], text(ds, "StudyTime"), _series(assoc, uid))
            for uid, ds in found.items()
        ]
    return [study for study in studies if study.series]


def fetch(source: Sender, ours: Settings, study_uid: str, series_uids: Collection[str], keep: Keep) -> None:
    """Have a source send series of a study: by C-MOVE to our listener, by C-GET here, to be kept by `keep`.

    Raises PacsUnavailable or RefusedByPacs with what the source says of it.
    """
    if source.retrieve == "c-get":
        contexts = [build_context(GET, [*_QUERIES]), *_storage()]
        roles = [build_role(each, scp_role=True) for each in RADIOGRAPHS]
    else:
        contexts, roles = [build_context(MOVE, [*_QUERIES])], []
    with _associated(source, ours, contexts, roles, keep) as assoc:
        for series_uid in sorted(series_uids):
            _fetch_series(assoc, source, ours.listener_ae_title, study_uid, series_uid)


def _storage() -> list[PresentationContext]:
    """A context for each syntax, so that the source can send each image as it has it."""
    syntaxes = decodable_transfer_syntaxes()
    return [build_context(sop_class, syntax) for sop_class in sorted(RADIOGRAPHS) for syntax in syntaxes]


def _studies(assoc: Association, day: date) -> Iterator[Dataset]:
    """What the source says of the day's studies; of some of them more than once."""
    for modality in MODALITIES:
        keys = {"StudyDate": f"{day:%Y%m%d}", "ModalitiesInStudy": modality}
        whole = _whole_day(assoc, keys)
        yield from whole or ()
        if whole is None or len(whole) >= MOST_BELIEVED:
            for hour in range(24):
                times = {"StudyTime": f"{hour:02}0000-{hour:02}5959.999999"}
                yield from pacs.matches(assoc, "STUDY", *_OF_A_STUDY, **keys | times)


def _whole_day(assoc: Association, keys: Mapping[str, str]) -> list[Dataset] | None:
    """The studies of a day; None when they are too many for the source to tell."""
    try:
        return pacs.matches(assoc, "STUDY", *_OF_A_STUDY, **keys)
    except PacsUnavailable as error:
        log.warning("%s of a whole day: it is asked by the hour, which shows no study without a time", error)
        return None


def _series(assoc: Association, study_uid: str) -> dict[str, frozenset[str]]:
    """The CR and DX images of a study, by series."""
    wanted = ("SeriesInstanceUID", "Modality")
    series = pacs.matches(assoc, "SERIES", *wanted, StudyInstanceUID=study_uid)
    ours = [text(ds, "SeriesInstanceUID") for ds in series if text(ds, "Modality") in MODALITIES]
    images = {uid: pacs.instances_found(assoc, study_uid, [uid]) for uid in ours if is_uid(uid)}
    return {uid: frozenset(filter(is_uid, found)) for uid, found in images.items() if found}


def _fetch_series(
    assoc: Association, source: Sender, calling_ae_title: str, study_uid: str, series_uid: str
) -> None:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_uid, series_uid
    try:
        if source.retrieve == "c-get":
            answers = list(assoc.send_c_get(query, GET))
        else:
            answers = list(assoc.send_c_move(query, calling_ae_title, MOVE))
    except ValueError as error:
        raise RefusedByPacs(f"{source.ae_title} does not do {source.retrieve}: {error}") from error
    except RuntimeError as error:
        raise PacsUnavailable(f"{source.ae_title} ended the association: {error}") from error
    _require_success(source, calling_ae_title, answers[-1][0] if answers else Dataset())


def _require_success(source: Sender, calling_ae_title: str, status: Dataset) -> None:
    if "Status" not in status:
        raise PacsUnavailable(f"{source.ae_title} did not answer {source.retrieve}")
    if status.Status == pacs.SUCCESS:
        return
    code, comment = f"0x{status.Status:04X}", text(status, "ErrorComment")
    if status.Status == _DESTINATION_UNKNOWN:
        raise RefusedByPacs(
            f"{source.ae_title} does not know {calling_ae_title} ({code}): tell it our AE title, host, port"
        )
    failed = text(status, "NumberOfFailedSuboperations")
    words = f"{failed} of the images" if failed not in ("", "0") else "the images"
    raise RefusedByPacs(f"{source.ae_title} could not send {words} ({code}) {comment}".strip())


@contextmanager
def _associated(
    source: Sender,
    ours: Settings,
    contexts: list[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    keep: Keep | None = None,
) -> Iterator[Association]:
    assoc = pacs.associate(
        Peer.of(source, ours),
        contexts,
        timeout_s=FETCH_TIMEOUT_S if keep else pacs.ANSWER_TIMEOUT_S,
        roles=roles,
        handlers=[(evt.EVT_C_STORE, keep)] if keep else [],
    )
    try:
        yield assoc
    finally:
        assoc.release()
