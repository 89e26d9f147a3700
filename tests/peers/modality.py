"""A modality that asks for storage commitment before it deletes its copies."""

from pynetdicom import AE, evt
from pynetdicom.events import Event

from hilum import commitment
from hilum.commitment import Report, Request
from tests.peers.helpers import free_port


class Modality:
    """Asks by N-ACTION, and takes the reports at its own port with the next of `statuses` (then 0x0000)."""

    ae_title = "MODALITY"

    def __init__(self) -> None:
        self.port = free_port()
        self.statuses: list[int] = []
        self.reports: list[Report] = []
        self.event_types: list[int | None] = []
        self.was_scu: bool | None = False
        """Whether the caller took the SCP's role in the newest association."""
        self.called = ""
        """The AE title by which the newest report's association called it."""
        self.start()

    def start(self) -> None:
        ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(commitment.PUSH_MODEL, scu_role=True, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)]
        )

    def stop(self) -> None:
        self._server.shutdown()  # type: ignore[union-attr]

    def ask(self, port: int, request: Request, *, action: int = commitment.REQUEST, calling: str = "") -> int:
        """Ask for storage commitment; the status of the answer comes back."""
        ae = AE(ae_title=calling or self.ae_title)
        ae.add_requested_context(commitment.PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", port, ae_title="HILUM")
        assert assoc.is_established, "the association was not accepted"
        status, _ = assoc.send_n_action(
            commitment.request_information(request), action, commitment.PUSH_MODEL, commitment.WELL_KNOWN
        )
        assoc.release()
        return int(status.Status)

    def _reported(self, event: Event) -> tuple[int, None]:
        self.reports.append(commitment.read_report(event.event_information))
        self.event_types.append(event.event_type)
        self.called = event.assoc.acceptor.primitive.called_ae_title  # type: ignore[union-attr]
        self.was_scu = event.assoc.accepted_contexts[0].as_scu
        return self.statuses.pop(0) if self.statuses else 0x0000, None
