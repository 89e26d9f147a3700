"""The DICOM upper layer within limits: what pynetdicom believes of a peer, and we do not."""

import contextlib
import logging
import select
import socket
import time
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import DimsePrimitiveType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler

from dicom_listener.spool import Spool
from dicom_listener.status import NOT_ITS_CLASS, Refused
from hilum.settings import settings
from hilum.store import Store

log = logging.getLogger(__name__)

_LONGEST_REQUEST = 1 << 18
"""Bytes of an A-ASSOCIATE-RQ: 128 presentation contexts with many transfer syntaxes stay below."""
_LONGEST_IN_MEMORY = 1 << 16
"""Bytes of a message other than a C-STORE's data set, which streams to disk."""
_MOST_UNANSWERED = 8
_LONGEST_WAIT_S = 10.0
_LISTEN_MS = 200
_IS_COMMAND = 0x01  # of the Message Control Header, PS3.8 E.2


class Wire(AssociationSocket):
    """A connection that reads no more and waits no longer than it should."""

    longest_pdu = _LONGEST_REQUEST
    is_waiting = True
    """Whether the caller has still to ask for an association."""
    _has_heard = False

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waited for a little until the caller has said something.

        pynetdicom asks a thousand times a second, and many silent callers would take a processor.
        """
        if self.socket is None or not self._is_connected:
            return False
        poll = select.poll()  # select.select knows no descriptor above 1023
        try:
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(0 if self._has_heard else _LISTEN_MS))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """The next bytes, fewer when the caller hangs up; raises OSError when too many or too slow."""
        self._has_heard = True
        if nr_bytes > self.longest_pdu:
            self._abort_over_length()
            raise ConnectionAbortedError(f"a PDU of {nr_bytes} bytes where {self.longest_pdu} may come")
        peer, content, filled = self.socket, bytearray(nr_bytes), 0
        if peer is None:
            raise ConnectionResetError("the connection is closed")
        deadline = time.monotonic() + (_artim_s() if self.is_waiting else settings().idle_timeout_s)
        while filled < nr_bytes:
            peer.settimeout(max(0.001, deadline - time.monotonic()))
            count = peer.recv_into(memoryview(content)[filled:])
            if not count:
                return content[:filled]
            filled += count
        return content

    def hang_up(self) -> None:
        """Close the connection; what waits for its bytes is told that there are none."""
        with contextlib.suppress(OSError, AttributeError):
            self.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def _abort_over_length(self) -> None:
        abort = A_ABORT_RQ()
        abort.source = 0x02  # the service provider
        abort.reason_diagnostic = 0x06  # invalid PDU parameter value, PS3.8 9.3.8
        self.send(abort.encode())


class Messages(DIMSEServiceProvider):
    """Messages of one association, gathered within limits; the data sets of C-STORE on disk."""

    def __init__(self, assoc: Association, store: Store) -> None:
        super().__init__(assoc)
        self._store = store
        self._gathered = 0
        self._unanswered = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way and every answer has gone out."""
        return self.message is None and self._unanswered == 0 and self.dul.to_provider_queue.empty()

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

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send an answer."""
        super().send_msg(primitive, context_id)
        self._unanswered = max(0, self._unanswered - 1)

    def drop(self) -> None:
        """Forget the message that is under way, and its file."""
        message, self.message = self.message, None
        if message is not None and isinstance(message._data_set_file, Spool):
            message._data_set_file.drop()

    def _receive(self, value: tuple[int, bytes]) -> None:
        spool = self.message._data_set_file if self.message else None
        if spool is None:
            self._gathered += len(value[1])
        if self._gathered > _LONGEST_IN_MEMORY or self._unanswered >= _MOST_UNANSWERED:
            raise OverflowError
        if spool is not None and value[1][0] & _IS_COMMAND:
            raise ValueError
        fragment = P_DATA()
        fragment.presentation_data_value_list = [[*value]]  # type: ignore[list-item]
        super().receive_primitive(fragment)
        if self.message is None:
            self._gathered = 0
            self._unanswered += 1
        elif spool is None and self.message._data_set_file is not None:
            self._start_spool(self.message)

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
        assoc.dul = DULServiceProvider(assoc)  # a new one, since its socket cannot be replaced
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


def caller(assoc: Association) -> str:
    """The calling AE title and address, for the log."""
    return f"{assoc.requestor.ae_title.strip() or 'a caller without a name'} at {assoc.requestor.address}"


def _artim_s() -> float:
    """The ARTIM timer (PS3.8 9.1.5): seconds a caller may take until it has asked for an association."""
    return min(_LONGEST_WAIT_S, settings().idle_timeout_s)
