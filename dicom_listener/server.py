"""The Storage and Verification SCP: one process, which may share its port with others."""

import errno
import logging
import signal
import socket
import socketserver
import tempfile
import threading
import time
from functools import partial
from typing import Self

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AssociationServer

from dicom_listener.bells import Bells
from dicom_listener.commitment import handle_action, handle_report
from dicom_listener.handlers import (
    handle_close,
    handle_echo,
    handle_end,
    handle_paced_store,
    handle_request,
)
from dicom_listener.rules import Pace
from dicom_listener.upper_layer import Call, caller, messages, wire
from hilum import commitment, tls
from hilum.errors import SettingsError
from hilum.log import keep_values_out
from hilum.radiograph import decodable_transfer_syntaxes
from hilum.settings import Settings, settings
from hilum.store import Store

log = logging.getLogger(__name__)

FINISH_S = 10.0
"""Seconds that running C-STOREs get to finish when the process is to stop."""
_MOST_WAITING = 32
"""Connections that have not asked for an association; beyond them one is closed for each new one."""
_PATIENCE_S = 2.0
"""An association idle for longer gives way to a caller from an address that holds fewer."""
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class _Contexts(list[PresentationContext]):
    """Presentation contexts that nobody changes, and so all associations may share."""

    def __deepcopy__(self, memo: object) -> Self:
        return self  # pynetdicom copies them for each association, which takes 40 ms


class Places:
    """The associations that count, on all ports of this process."""

    def __init__(self) -> None:
        self._admitted: list[Association] = []
        self._admission = threading.Lock()

    def admit(self, assoc: Association) -> bool:
        """Count an association, unless as many as may be are open and none of them can give way."""
        with self._admission:
            self._admitted = [each for each in self._admitted if each.is_alive()]
            if len(self._admitted) >= settings().max_associations and not self._make_room(assoc):
                return False
            self._admitted.append(assoc)
            return True

    def _make_room(self, assoc: Association) -> bool:
        """Close an association that only holds a place, of the address that holds the most of them.

        So nobody who fills all places, on purpose or with idle associations, keeps other addresses out.
        """
        crowd = _crowd(self._admitted)
        its_own = [each for each in self._admitted if _address(each) == _address(assoc)]
        idle = [each for each in crowd if _only_holds_a_place(each)]
        if len(its_own) + 1 >= len(crowd) or not idle:
            return False
        longest = min(idle, key=lambda each: wire(each).since)
        log.warning("%s, of %d at that address, gives way to another caller", caller(longest), len(crowd))
        wire(longest).hang_up()
        self._admitted.remove(longest)
        return True


class Server(AssociationServer):
    """Takes the connections of one port, by TLS or without it."""

    request_queue_size = 128

    def __init__(
        self, ae: AE, limits: Settings, port: int, store: Store, bells: Bells, places: Places, pace: Pace
    ) -> None:
        self._shares_port = limits.listener_processes > 1
        self._tls = tls.files(limits) if port == limits.listener_tls_port else None
        super().__init__(
            ae,
            (limits.listener_host, port),
            limits.listener_ae_title,
            contexts(),
            evt_handlers=[
                (evt.EVT_REQUESTED, handle_request, [places.admit]),
                (evt.EVT_C_ECHO, handle_echo),
                (evt.EVT_C_STORE, handle_paced_store, [store, bells, pace]),
                (evt.EVT_N_ACTION, handle_action, [bells]),
                (evt.EVT_N_EVENT_REPORT, handle_report, [bells]),
                (evt.EVT_RELEASED, handle_end),
                (evt.EVT_ABORTED, handle_end),
                (evt.EVT_CONN_CLOSE, handle_close),
            ],
            request_handler=partial(Call, store=store),
        )

    def server_bind(self) -> None:
        """Bind the port, alone or together with other processes of ours."""
        if self._shares_port and self.socket:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection; with TLS its handshake is still to come, in its own thread."""
        request, address = super().get_request()
        if self._tls:
            context = tls.server_context(self._tls)
            request = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        return request, address

    def verify_request(self, request: object, client_address: object) -> bool:
        """Take every connection, but keep only so many that say nothing."""
        silent = [assoc for assoc in self.active_associations if wire(assoc).is_waiting]
        if len(silent) >= _MOST_WAITING:
            wire(_crowd(silent)[0]).hang_up()
        return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong with a connection, and go on."""
        log.exception("a connection from %s could not be answered", client_address)

    def close_door(self) -> None:
        """Take no more connections."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def finish(self, deadline: float) -> None:
        """Let requests under way be answered, until then at most, and end what is open."""
        while (open_ := self.active_associations) and time.monotonic() < deadline:
            for assoc in open_:
                if wire(assoc).is_waiting:
                    wire(assoc).hang_up()
                elif messages(assoc).is_idle:
                    assoc.abort()
            time.sleep(0.02)
        for assoc in open_:
            wire(assoc).hang_up()


def serve(limits: Settings) -> None:
    """Listen until SIGTERM or SIGINT, then finish what is under way; SIGHUP reads the settings anew.

    Of these, the address, the ports, our name, the number of processes and the names of the files for
    TLS need a restart; a certificate that is renewed in its file does not.

    Raises
    ------
    SettingsError
        When the address cannot be bound, because another program has it for example, or the files for
        TLS cannot be used.
    """
    _set_up_libraries()
    store = Store(limits.store)
    tempfile.tempdir = str(store.aside)  # objects stream to where a rename puts them into their place
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # before the first thread, which inherits it
    bells = Bells()
    servers = _bound(limits, store, bells)
    for server in servers:
        threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()
    log.info(
        "%s listens on %s:%s",
        limits.listener_ae_title,
        limits.listener_host,
        ", ".join(map(str, _ports(limits))),
    )
    for _ in iter(lambda: signal.sigwait(_SIGNALS) == signal.SIGHUP, False):
        _read_settings_anew()
    log.info("stopping")
    _stop(servers)
    bells.stop(patience_s=2)


def contexts() -> _Contexts:
    """Every storage class, in the transfer syntaxes that this machine decodes, and what else is served."""
    syntaxes: list[str | UID] = [*sorted(decodable_transfer_syntaxes(), key=_preference)]
    classes = [each.abstract_syntax for each in AllStoragePresentationContexts if each.abstract_syntax]
    storage = [build_context(each, syntaxes) for each in classes]
    return _Contexts([*storage, *VerificationPresentationContexts, commitment.context()])


def _crowd(associations: list[Association]) -> list[Association]:
    """Those of the address that has the most, in their order."""
    of_address: dict[str, list[Association]] = {}
    for each in associations:
        of_address.setdefault(_address(each), []).append(each)
    return max(of_address.values(), key=len)


def _only_holds_a_place(assoc: Association) -> bool:
    return wire(assoc).is_slow(_PATIENCE_S) and not messages(assoc).owes_an_answer


def _address(assoc: Association) -> str:
    return str(assoc.requestor.address)


def _preference(syntax: UID) -> int:
    """Of the syntaxes in one proposal the first of ours is taken: as little work and loss as can be."""
    order = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    last = [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
    return order.index(syntax) - 2 if syntax in order else int(syntax in last)


def _bound(limits: Settings, store: Store, bells: Bells) -> list[Server]:
    """A server for each port; they share what they count."""
    if limits.listener_tls_port is not None:
        tls.server_context(tls.files(limits))  # what is wrong with its files is said now
    ae = AE(limits.listener_ae_title)
    ae.maximum_pdu_size = limits.max_pdu_bytes
    ae.maximum_associations = 1_000_000  # pynetdicom counts silent connections too; `admit` does not
    places, pace, servers = Places(), Pace(), list[Server]()
    for port, name in _ports(limits).items():
        try:
            servers.append(Server(ae, limits, port, store, bells, places, pace))
        except OSError as error:
            raise SettingsError(_why_not_bound(error, f"{limits.listener_host}:{port}", name)) from error
    return servers


def _ports(limits: Settings) -> dict[int, str]:
    """Port -> the setting that names it."""
    ports = {limits.listener_port: "listener_port"}
    if limits.listener_tls_port is not None:
        ports[limits.listener_tls_port] = "listener_tls_port"
    return ports


def _why_not_bound(error: OSError, where: str, name: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another program: stop it, or choose another {name}"
    return f"listener_host, {name}: {where} cannot be bound: {error}"


def _stop(servers: list[Server]) -> None:
    deadline = time.monotonic() + FINISH_S
    for server in servers:
        server.close_door()
    for server in servers:
        server.finish(deadline)


def _read_settings_anew() -> None:
    try:
        settings.__wrapped__()
    except SettingsError as error:
        log.error("the settings stay as they were, because the new ones are wrong: %s", error)
        return
    settings.cache_clear()
    log.info("read the settings anew: %d senders", len(settings().senders))


def _set_up_libraries() -> None:
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    keep_values_out()
    threading.excepthook = _log_thread_death


def _log_thread_death(death: threading.ExceptHookArgs) -> None:
    log.warning("an association broke: %s", death.exc_type.__name__)
    if isinstance(death.thread, Association):
        death.thread.dul.kill_dul()  # which closes the connection
