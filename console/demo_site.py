"""Where the demo runs: a configuration of its own, `hilum up`, and a PACS to send results to."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from console import pacs, scu
from console.overview import ask
from console.up import child_process, stop_process
from hilum.errors import HilumError, PacsUnavailable
from hilum.pacs import Peer
from hilum.process import OWNER_ALONE
from hilum.settings import CONFIG_VARIABLE, settings

CALLING_AE_TITLE = "HILUM-DEMO"
WORKERS = ("prepare", "classify", "deliver", "sweep")
READY_WITHIN_S = 120
STOP_WITHIN_S = 90

_LOOK_S = 0.3
_LOG_LINES = 15
_OF_ANOTHER_SITE = ("DATABASE_URL", "BROKER_URL", "STORE_DIR", "LISTENER_HOST", "SENDERS", "DESTINATIONS")


class DemoFailed(HilumError):
    """The person at the terminal must look: the text says where."""


@dataclass
class Site:
    """The demo's folder, its two doors, and its processes while they run."""

    folder: Path
    configuration: Path
    listener: Peer
    pacs: Peer
    browser_port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "demo.log"

    def require_alive(self) -> None:
        """Raise DemoFailed with the last lines of the log when a process has ended."""
        if any(process.poll() is not None for process in self.processes):
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise DemoFailed("\n".join([f"a process has ended; {self.log} ends with", *lines]))


def configured() -> Site:
    """Put the demo's own configuration in force, here and for every process started from here."""
    os.umask(OWNER_ALONE)
    folder = Path(os.environ.get("HILUM_DATA_DIR") or _default_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in _OF_ANOTHER_SITE:
        os.environ.pop(f"HILUM_{name}", None)
    archive = Peer("127.0.0.1", free_port(11113), "DEMO-PACS", CALLING_AE_TITLE)
    configuration = folder / "demo.toml"
    configuration.write_text(_toml(folder, free_port(11112), archive))
    os.environ[CONFIG_VARIABLE] = str(configuration)
    settings.cache_clear()
    ours = settings()
    listener = Peer("127.0.0.1", ours.listener_port, ours.listener_ae_title, CALLING_AE_TITLE)
    return Site(folder, configuration, listener, archive, free_port(8042))


def _default_folder() -> str:
    """Not the folder of a real site that is configured here."""
    return "hilum-data/demo" if Path("hilum.toml").is_file() else "hilum-data"


def _toml(folder: Path, listener_port: int, archive: Peer) -> str:
    return (
        f"data_dir = {json.dumps(str(folder))}\n"
        f"listener_port = {listener_port}\n\n"
        "[[destinations]]\n"
        f'name = "{pacs.NAME}"\n'
        f'ae_title = "{archive.called_ae_title}"\n'
        f'host = "{archive.host}"\n'
        f"port = {archive.port}\n"
        'final_when = "c-find"\n'
    )


def free_port(wanted: int) -> int:
    """The wanted port, or any other when something listens there."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            return int(probe.getsockname()[1])
    raise DemoFailed("no TCP port is free on this machine")


@contextmanager
def running(site: Site, console: Console) -> Iterator[None]:
    """Run the demo PACS and `hilum up` until the block ends."""
    [destination] = settings().destinations
    callers = (site.listener.called_ae_title, CALLING_AE_TITLE)
    archive = pacs.command(site.folder / "pacs", destination, callers=callers, browser_port=site.browser_port)
    stopping = console.status("stopping")
    with ExitStack() as stack, site.log.open("wb") as log:
        stack.callback(stopping.stop)
        for argv in (archive, (sys.executable, "-P", "-m", "console.cli", "up")):
            process = child_process(argv, log)
            site.processes.append(process)
            stack.callback(stop_process, process, STOP_WITHIN_S)
        try:
            yield
        finally:
            stopping.start()


def wait_until_ready(site: Site, bars: Progress) -> None:
    """Return when listener, PACS and workers answer, with a bar; raise DemoFailed when one does not."""
    everyone = {"the listener", "the PACS", *(f"the {name} worker" for name in WORKERS)}
    waiting = set(everyone)
    task = bars.add_task("started", total=len(everyone), rate="")
    deadline = time.monotonic() + READY_WITHIN_S
    while waiting:
        site.require_alive()
        if time.monotonic() > deadline:
            raise DemoFailed(f"{', '.join(sorted(waiting))} did not start: look into {site.log}")
        waiting -= _answering(site)
        bars.update(task, completed=len(everyone) - len(waiting))
        time.sleep(_LOOK_S)


def _answering(site: Site) -> set[str]:
    doors = {"the listener": site.listener, "the PACS": site.pacs}
    return {name for name, peer in doors.items() if _echoes(peer)} | _workers()


def _echoes(peer: Peer) -> bool:
    try:
        scu.echo(peer)
    except PacsUnavailable:
        return False
    return True


def _workers() -> set[str]:
    return {f"the {name.partition('@')[0]} worker" for name in ask("ping") or {}}
