"""The DICOM upper layer within limits: what pynetdicom believes of a peer, and we do not."""

import contextlib
import hashlib
import logging
import select
import socket
import ssl
import time
from pathlib import Path
from queue import Empty
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import (
    C_ECHO,
    C_STORE,
    N_ACTION,
    DimsePrimitiveType,
    DimseServiceType,
)
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import StorageServiceClass, VerificationServiceClass
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket, RequestHandler

from dicom_listener.spool import Spool
from dicom_listener.status import NOT_ITS_CLASS, Refused
from hilum import tls
from hilum.commitment import PUSH_MODEL
from hilum.settings import settings
from hilum.store import Store

log = logging.getLogger(__name__)

_LONGEST_REQUEST = 1 << 18
"""Bytes of an A-ASSOCIATE-RQ: 128 presentation contexts with many transfer syntaxes stay below."""
_LONGEST_IN_MEMORY = 1 << 18
"""Bytes of a message other than a C-STORE's data set, which streams to disk."""
_LONGEST_ON_COMMITMENT = 1 << 21
"""Bytes of one on storage commitment, before which all are answered: 13,000 of the longest references."""
_MOST_UNANSWERED = 8
_LONGEST_WAIT_S = 10.0
_LISTEN_MS = 200
_DOZE_MS = 50
_QUIET_S = 1.0
"""After so long without a byte an association is looked after in larger steps."""
_SLOWEST_BYTES_S = 1000
"""A modem of the last century is faster; whoever sends slower only holds a place."""
_IS_COMMAND = 0x01  # of the Message Control Header, PS3.8 E.2
_SERVED: dict[type, type] = {
    VerificationServiceClass: C_ECHO,
    StorageServiceClass: C_STORE,
    StorageCommitmentServiceClass: N_ACTION,  # pynetdicom serves N-EVENT-REPORTs before they come here
}
"""Service class -> what may be asked for in its presentation contexts."""


class Wire(AssociationSocket):
    """A connection that reads no more and waits no longer than it should."""

    longest_pdu = _LONGEST_REQUEST
    is_waiting = True
    """Whether the caller has still to ask for an association."""
    certificate_sha256: str | None = None
    """The fingerprint of the caller's certificate; None when it calls without TLS."""
    since = 0.0
    """When the request under way began, or the last one was answered; of `time.monotonic`."""
    _came = 0
    _heard_at: float | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was to be read for a while."""
        return self._heard_at is not None and time.monotonic() - self._heard_at > _QUIET_S

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waited for a little when the caller is silent.

        pynetdicom asks a thousand times a second, and many silent callers would take a processor.
        """
        wait_ms = _LISTEN_MS if self._heard_at is None else _DOZE_MS if self.is_quiet else 0
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True  # bytes that OpenSSL has taken in already
        poll = select.poll()  # select.select knows no descriptor above 1023
        try:
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(wait_ms))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """The next bytes, fewer when the caller hangs up; raises OSError when too many or too slow."""
        self._heard_at = time.monotonic()
        if nr_bytes > self.longest_pdu:
            self._abort_over_length()
            raise ConnectionAbortedError(f"a PDU of {nr_bytes} bytes where {self.longest_pdu} may come")
        peer, content, filled = self.socket, bytearray(nr_bytes), 0
        if peer is None:
            raise ConnectionResetError("the connection is closed")
        deadline = time.monotonic() + (_artim_s() if self.is_waiting else settings().idle_timeout_s)
        if isinstance(peer, ssl.SSLSocket) and self.certificate_sha256 is None:
            self.certificate_sha256 = _shake_hands(peer, deadline)
        while filled < nr_bytes:
            peer.settimeout(max(0.001, deadline - time.monotonic()))
            count = peer.recv_into(memoryview(content)[filled:])
            if not count:
                return content[:filled]
            filled += count
            self._came += count
        return content

    def begin_anew(self) -> None:
        """Measure the caller's pace from now on."""
        self.since, self._came = time.monotonic(), 0

    def is_slow(self, patience_s: float) -> bool:
        """Whether the caller has been measured for this long, and sent next to nothing."""
        elapsed_s = time.monotonic() - self.since
        return elapsed_s > patience_s and self._came < elapsed_s * _SLOWEST_BYTES_S

    def hang_up(self) -> None:
        """Close the connection; what waits for its bytes is told that there are none."""
        with contextlib.suppress(OSError, AttributeError):
            self.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def _abort_over_length(self) -> None:
        abort = A_ABORT_RQ()
        abort.source = 0x02  # the service provider
        abort.reason_diagnostic = 0x06  # invalid PDU parameter value, PS3.8 9.3.8
        self.send(abort.encode())


class Provider(DULServiceProvider):
    """Upper layer of one association, which leaves nothing open behind it."""

    def run_reactor(self) -> None:
        """Serve the connection until its end; a PDU for which it is not the time is that, too.

        pynetdicom's state machine knows no answer to some of them, and would end with an open connection.
        """
        try:
            super().run_reactor()
        except InvalidEventError:
            log.warning("%s sends what does not belong there", caller(self.assoc))
        finally:
            wire(self.assoc).close()
            let_go(self.assoc)


class Messages(DIMSEServiceProvider):
    """Messages of one association, gathered within limits; the data sets of C-STORE on disk."""

    def __init__(self, assoc: Association, store: Store) -> None:
        super().__init__(assoc)
        self._store = store
        self._gathered = 0
        self._unanswered = 0
        self._has_taken = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way and every answer has gone out."""
        return self.message is None and not self.owes_an_answer and self.dul.to_provider_queue.empty()

    @property
    def owes_an_answer(self) -> bool:
        """Whether a whole request waits for its answer."""
        return self.msg_queue.unfinished_tasks > 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments of a message; a peer who breaks the rules is cut off with an A-ABORT."""
        try:
            for value in primitive.presentation_data_value_list:
                self._receive(value)
        except Exception as error:  # the border with whoever called: their bytes can raise anything here
            log.warning("an unreadable message from %s: %s", caller(self.assoc), type(error).__name__)
            log.debug("the unreadable message", exc_info=True)
            self.drop()
            self.dul.event_queue.put("Evt19")  # unrecognised or invalid PDU

    def get_msg(self, block: bool = False) -> tuple[int, DimseServiceType] | tuple[None, None]:
        """The next message, waited for a little when the caller is quiet; none when there is none.

        A request that its presentation context does not provide for ends the association: pynetdicom
        would answer a C-STORE among C-ECHOs with Success.
        """
        if self._has_taken:
            self.msg_queue.task_done()  # the former one has been served
        context_id, message = self._next(block)
        self._has_taken = message is not None
        if context_id is not None and message is not None and not self._is_served(context_id, message):
            log.warning("%s asks for %s in a wrong way", caller(self.assoc), message.msg_type)
            _drop_file(message._dataset_file)
            self.dul.event_queue.put("Evt19")  # unrecognised or invalid PDU
            return None, None
        return context_id, message  # type: ignore[return-value]

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send an answer."""
        super().send_msg(primitive, context_id)
        self._unanswered = max(0, self._unanswered - 1)
        wire(self.assoc).begin_anew()

    def drop(self) -> None:
        """Forget the messages that are under way or wait, and their files."""
        unfinished, self.message = self.message, None
        if unfinished is not None:
            _drop_file(unfinished._data_set_file)
        with contextlib.suppress(Empty):
            while True:
                _, message = self.msg_queue.get_nowait()
                self.msg_queue.task_done()
                _drop_file(getattr(message, "_dataset_file", None))

    def _next(self, block: bool) -> tuple[int, DimseServiceType] | tuple[None, None]:
        if block or not wire(self.assoc).is_quiet:
            return super().get_msg(block)
        try:
            return self.msg_queue.get(timeout=_DOZE_MS / 1000)
        except Empty:
            return None, None

    def _is_served(self, context_id: int, message: DimseServiceType) -> bool:
        if not message.is_valid_request:  # an answer is, which nobody waits for
            return message.MessageIDBeingRespondedTo is not None and message._dataset_file is None
        context = self.assoc._accepted_cx.get(context_id)
        service = uid_to_service_class(cast(str, context.abstract_syntax)) if context else None
        return service is not None and isinstance(message, _SERVED.get(service, object))

    def _receive(self, value: tuple[int, bytes]) -> None:
        spool = self.message._data_set_file if self.message else None
        if self.message is None:
            wire(self.assoc).begin_anew()
        if spool is None:
            self._gathered += len(value[1])
        if self._gathered > self._longest_in_memory(value[0]) or self._unanswered >= _MOST_UNANSWERED:
            raise OverflowError
        if self.message is not None and wire(self.assoc).is_slow(settings().idle_timeout_s):
            raise TimeoutError
        is_command = value[1][0] & _IS_COMMAND
        if spool is not None and self.message and (is_command or value[0] != self.message.context_id):
            raise ValueError
        fragment = P_DATA()
        fragment.presentation_data_value_list = [[*value]]  # type: ignore[list-item]
        super().receive_primitive(fragment)
        if self.message is None:
            self._gathered = 0
            self._unanswered += 1
        elif spool is None and self.message._data_set_file is not None:
            self._start_spool(self.message)

    def _longest_in_memory(self, context_id: int) -> int:
        context = self.assoc._accepted_cx.get(context_id)
        commits = context is not None and context.abstract_syntax == PUSH_MODEL
        return _LONGEST_ON_COMMITMENT if commits and not self._unanswered else _LONGEST_IN_MEMORY

    def _start_spool(self, message: DIMSEMessage) -> None:
        limits = settings()
        spool = Spool(
            message._data_set_file,  # type: ignore[arg-type]
            most_mb=limits.max_object_mb,
            require_free=lambda: self._store.require_free(limits.keep_free_mb),
        )
        message._data_set_file = spool  # type: ignore[assignment]
        agreed = self.assoc._accepted_cx[cast(int, message.context_id)].abstract_syntax
        if message.command_set.AffectedSOPClassUID != agreed:
            # pynetdicom would abort here, and the sender's other objects would be lost with this one
            spool.refuse(Refused(NOT_ITS_CLASS, "the SOP Class is not the one of its presentation context"))
            message.command_set.AffectedSOPClassUID = agreed


class Call(RequestHandler):
    """Answers a connection with an association whose limits are ours."""

    def __init__(self, request: socket.socket, address: Any, server: BaseServer, *, store: Store) -> None:
        self._store = store
        super().__init__(request, address, server)  # which answers the call

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        assoc.dul = Provider(assoc)  # a new one, since its socket cannot be replaced
        assoc.set_socket(Wire(assoc, client_socket=self.request))
        assoc.dimse = Messages(assoc, self._store)
        assoc.acse_timeout = _artim_s()
        assoc.network_timeout = settings().idle_timeout_s
        return assoc


def wire(assoc: Association) -> Wire:
    """The connection of an association that `Call` made."""
    return cast(Wire, assoc.dul.socket)


def messages(assoc: Association) -> Messages:
    """The messages of an association that `Call` made."""
    return cast(Messages, assoc.dimse)


def let_go(assoc: Association) -> None:
    """Remove what a caller left half sent, and wait no longer for one who never asked for anything."""
    messages(assoc).drop()
    if wire(assoc).is_waiting:
        assoc.dul.to_user_queue.put(None)  # as if its time were up


def caller(assoc: Association) -> str:
    """The calling AE title and address, for the log."""
    return f"{assoc.requestor.ae_title.strip() or 'a caller without a name'} at {assoc.requestor.address}"


def _drop_file(file: Any) -> None:
    """Remove the file that a data set streamed into, a Spool or pynetdicom's own, if there is one."""
    if file is not None:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def _shake_hands(peer: ssl.SSLSocket, deadline: float) -> str:
    """The fingerprint of the caller's certificate; raises OSError when the handshake fails or takes too long.

    Done in the connection's own thread: whoever is slow or silent here keeps nobody else waiting.
    """
    try:
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        peer.do_handshake()
    except OSError as error:
        log.warning("the TLS handshake of %s fails: %s", _host(peer), tls.why(error))
        raise
    return hashlib.sha256(peer.getpeercert(binary_form=True) or b"").hexdigest()


def _host(peer: socket.socket) -> str:
    try:
        return str(peer.getpeername()[0])
    except OSError:
        return "a caller who has gone"


def _artim_s() -> float:
    """The ARTIM timer (PS3.8 9.1.5): seconds a caller may take until it has asked for an association."""
    return min(_LONGEST_WAIT_S, settings().idle_timeout_s)
