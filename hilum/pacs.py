"""What a PACS is asked and what its answers mean, for all who talk to one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from hilum import tls
from hilum.errors import PacsUnavailable, RefusedByPacs, SettingsError
from hilum.settings import Destination, Sender, Settings
from hilum.tls import files

FIND = StudyRootQueryRetrieveInformationModelFind
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE = 0x0111
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = range(0xA700, 0xA800)
WARNINGS = range(0xB000, 0xC000)
CANNOT_UNDERSTAND = range(0xC000, 0xD000)
"""C-STORE statuses, PS3.4 B.2.3 and PS3.7 annex C."""
_PENDING = (0xFF00, 0xFF01)  # C-FIND, PS3.4 C.4.1.1.4
CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 60


class Rejected(PacsUnavailable):
    """The peer is there, and will not have calls of ours: it must be told who we are."""


@dataclass(frozen=True)
class Peer:
    """Whom we call, and as whom."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    secured: tls.Files | None = None
    """What DICOM TLS needs; None: call without it."""
    name: str = ""
    """What people call it; empty: the AE title."""

    @classmethod
    def of(cls, place: Sender | Destination, ours: Settings) -> Self:
        """A sender or destination, called as the settings say."""
        if isinstance(place, Sender):
            name, called = place.ae_title, place.answers_to
        else:
            name, called = place.name, place.ae_title
        secured = tls.files(ours) if place.tls else None
        return cls(place.host, place.port, called, ours.listener_ae_title, secured, name)

    def __str__(self) -> str:
        place = f"{self.called_ae_title} at {self.host}:{self.port}"
        return f"{self.name} ({place})" if self.name else place


def listener(ours: Settings, calling: str, *, called: str = "", tls: bool = False, host: str = "") -> Peer:
    """Our own listener, called by TLS when it is to be or when it speaks nothing else."""
    here = "127.0.0.1" if ours.listener_host in ("0.0.0.0", "::") else ours.listener_host  # noqa: S104
    port = ours.listener_tls_port if tls and ours.listener_tls_port else ours.listener_port
    secured = files(ours) if port == ours.listener_tls_port else None
    return Peer(host or here, port, called or ours.listener_ae_title, calling, secured)


def associate(
    peer: Peer,
    contexts: Iterable[PresentationContext],
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """An association with a peer, on which an answer is waited for so long.

    Raises
    ------
    PacsUnavailable
        When there is none, with the reason; Rejected when the peer rejects it.
    """
    ae = AE(ae_title=peer.calling_ae_title)
    ae.connection_timeout = CONNECT_TIMEOUT_S
    ae.acse_timeout = min(timeout_s, ANSWER_TIMEOUT_S)
    ae.dimse_timeout = ae.network_timeout = timeout_s
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.called_ae_title,
            ext_neg=list(roles),
            evt_handlers=list(handlers),
            tls_args=tls.arguments(peer.host, peer.secured),
        )
    except (OSError, SettingsError) as error:  # its name is not known, or our certificate broken, now
        raise PacsUnavailable(f"{peer} cannot be called: {error}") from error
    if assoc.is_established:
        return assoc
    if assoc.is_rejected:
        raise Rejected(
            f"{peer} rejects our association: does it go by this AE title, and know {peer.calling_ae_title}?"
        )
    if because := tls.fault(peer.host, peer.port, peer.secured):
        raise PacsUnavailable(f"{peer}: the TLS handshake fails: {because}")
    raise PacsUnavailable(f"{peer} does not answer, or accepts nothing of what we ask for")


def is_stored(status: int) -> bool:
    """Whether a C-STORE status says that the peer has the object: now, or from before."""
    return status in (SUCCESS, DUPLICATE) or status in WARNINGS


def series_found(assoc: Association, study_uid: str) -> set[str]:
    """Series Instance UIDs that the peer has of a study, by C-FIND. Raises as `instances_found` does."""
    return _values(assoc, "SERIES", "SeriesInstanceUID", StudyInstanceUID=study_uid)


def instances_found(assoc: Association, study_uid: str, series_uids: Iterable[str]) -> set[str]:
    """SOP Instance UIDs that the peer has in these series of a study, by a C-FIND for each.

    To ask for all series at once would be a relational query, which must be negotiated (PS3.4 C.4.1).

    Raises
    ------
    PacsUnavailable
        If it does not answer with Success.
    RefusedByPacs
        If it does not do C-FIND.
    """
    found: set[str] = set()
    for series_uid in series_uids:
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        found |= _values(assoc, "IMAGE", "SOPInstanceUID", **keys)
    return found


def matches(assoc: Association, level: str, *wanted: str, **keys: str) -> list[Dataset]:
    """What the peer finds at a level, by C-FIND: each with what it likes to say of the wanted attributes.

    Raises
    ------
    PacsUnavailable
        If it does not answer with Success, or says something that cannot be read.
    RefusedByPacs
        If it does not do C-FIND.
    """
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in {**dict.fromkeys(wanted, ""), **keys}.items():
        setattr(query, keyword, value)
    peer = assoc.acceptor.ae_title
    try:
        answers = list(assoc.send_c_find(query, FIND))
    except ValueError as error:
        raise RefusedByPacs(f"{peer} does not do C-FIND, which final_when and retrieve need") from error
    except RuntimeError as error:
        raise PacsUnavailable(f"{peer} ended the association: {error}") from error
    last = answers[-1][0] if answers else None
    if not last or last.Status != SUCCESS:
        raise PacsUnavailable(f"{peer} did not answer C-FIND with Success{_said(last)}")
    found = [ds for status, ds in answers if status.Status in _PENDING]
    read = [ds for ds in found if ds is not None]
    if len(read) < len(found):
        raise PacsUnavailable(f"{peer} answers C-FIND with what cannot be read")
    return read


def _said(status: Dataset | None) -> str:
    return f", but with 0x{status.Status:04X}" if status else ""


def _values(assoc: Association, level: str, wanted: str, **keys: str) -> set[str]:
    """The values of one attribute in all that the peer finds; what lacks it is passed over."""
    return {str(ds.get(wanted, "")) for ds in matches(assoc, level, wanted, **keys)} - {""}
