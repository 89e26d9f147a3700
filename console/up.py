"""`hilum up`: all processes of one machine, restarted when they die, stopped in order, in one log."""

import fcntl
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from console.programs import Program, programs
from db import schema
from hilum.errors import SettingsError
from hilum.kernel import dying_with
from hilum.process import OWNER_ALONE
from hilum.settings import Settings, settings

READY_WITHIN_S = 15
STOP_WITHIN_S = 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_AFTER_S = 30
"""A program that ran for as long starts without a pause again."""

_TICK_S = 0.1
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)


def up(ours: Settings, out: IO[str]) -> None:
    """Run everything until SIGINT or SIGTERM; the log of all goes to `out`.

    Raises
    ------
    SettingsError
        If another `up` holds the data folder, or the listener's port is taken.
    """
    os.umask(OWNER_ALONE)
    with locked(ours.data_dir):
        _require_free_port(ours.listener_host, "listener_port", ours.listener_port)
        if ours.listener_tls_port is not None:
            _require_free_port(ours.listener_host, "listener_tls_port", ours.listener_tls_port)
        schema.upgrade(ours.database)
        Supervisor(programs(ours), out).run()


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, so that it has one `up` at a time; the lock goes with the process."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SettingsError(
                f"data_dir: another `hilum up` (process {lock.read().strip()}) runs on {data_dir.resolve()}; "
                "stop it, or set another data_dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def child_process(argv: Sequence[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, which the kernel kills when this process dies in any way."""
    calm = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # idle threads leave the cores to others
    return subprocess.Popen(  # noqa: S603 - the programs are our own
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=dying_with(os.getpid()),
        env={**os.environ, **calm, "PYTHONUNBUFFERED": "1"},
    )


def stop_process(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Ask a child to end, and kill it and its own children when it does not in time."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _require_free_port(host: str, name: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"{name}: cannot listen on {host}:{port} ({error.strerror}); "
                "stop what does, or choose another"
            ) from None


class Supervised:
    """A program and its process of the moment."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0
        self._started_at = 0.0
        self._deaths = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.process = child_process(self.program.argv, subprocess.PIPE)
        self._started_at = time.monotonic()
        return self.process

    def has_died(self) -> bool:
        """Whether the process has ended; what it leaves behind is killed before its number is free."""
        if self.process is None:
            return False
        waits = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if os.waitid(os.P_PID, self.process.pid, waits) is None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return True

    def pause_s(self) -> float:
        """Seconds to wait before the next start: growing with deaths in a row."""
        steady = time.monotonic() - self._started_at > STEADY_AFTER_S
        self._deaths = 0 if steady else self._deaths + 1
        return min(FIRST_PAUSE_S * 2.0 ** max(self._deaths - 1, 0), LONGEST_PAUSE_S)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:  # not Popen.send_signal, which would reap it unseen
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Keeps programs running until it is told to stop."""

    def __init__(self, wanted: Sequence[Program], out: IO[str]) -> None:
        self._all = [Supervised(program) for program in wanted]
        self._log = Log(out, [program.name for program in wanted])
        self._stops = 0
        self._hangup = False
        self._renewing: set[str] = set()

    def run(self) -> None:
        """Start everything, restart what dies, and return when all has been stopped."""
        with self._signals():
            try:
                self._start_in_order()
                while not self._stops:
                    self._tick()
            finally:
                self._stop_in_order()
        self._log.say("stopped")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: object) -> None:
            self._stops += 1

        def hangup(number: int, frame: object) -> None:
            self._hangup = True

        handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: hangup}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def _start_in_order(self) -> None:
        for each in self._all:
            if self._stops:
                return
            self._start(each)
            deadline = time.monotonic() + READY_WITHIN_S
            while not each.program.is_ready() and time.monotonic() < deadline and not self._stops:
                self._tick()
        self._log.say(f"{len(self._all)} processes started; Ctrl-C stops them")

    def _start(self, each: Supervised) -> None:
        self._log.follow(each.program.name, each.start())

    def _tick(self) -> None:
        self._log.copy(_TICK_S)
        if self._hangup:
            self._read_settings_anew()
        for each in self._all:
            if each.has_died():
                self._after_death(each)
            elif each.process is None and 0 < each.start_at <= time.monotonic():
                self._start(each)

    def _after_death(self, each: Supervised) -> None:
        name, code = each.program.name, each.process.returncode if each.process else 0
        each.process = None
        renewed = name in self._renewing
        self._renewing.discard(name)
        pause_s = 0.0 if renewed else each.pause_s()
        each.start_at = time.monotonic() + pause_s
        if not renewed:
            self._log.say(f"{name} {_ended(code)}; started again in {pause_s:g} s")

    def _read_settings_anew(self) -> None:
        """What listens reads its settings itself; workers end what they are at and are started anew.

        Wrong settings leave all as it is: whatever was started with them would only end.
        """
        self._hangup = False
        settings.cache_clear()
        try:
            settings()
        except SettingsError as error:
            told = "; ".join(str(error).splitlines())
            self._log.say(f"wrong settings, so nothing is started anew, and what ends cannot start: {told}")
            return
        self._log.say("reading the settings anew")
        for each in self._all:
            if each.program.on_hangup == "read":
                each.send(signal.SIGHUP)
            elif each.program.on_hangup == "restart":
                self._renewing.add(each.program.name)
                each.send(each.program.stop_signal)

    def _stop_in_order(self) -> None:
        self._log.say("stopping; a second Ctrl-C kills what is still at work")
        asked = self._stops
        for order in sorted({each.program.stops for each in self._all}):
            group = [each for each in self._all if each.program.stops == order]
            for each in group:
                each.send(each.program.stop_signal)
            deadline = time.monotonic() + STOP_WITHIN_S
            while (
                (alive := self._alive(group)) and time.monotonic() < deadline and self._stops <= max(asked, 1)
            ):
                self._log.copy(_TICK_S)
            for each in alive:
                self._log.say(f"{each.program.name} does not end: killed")
                each.kill()
            while self._alive(group):
                self._log.copy(_TICK_S)
        self._log.copy(0)

    def _alive(self, group: Sequence[Supervised]) -> list[Supervised]:
        for each in group:
            if each.has_died():
                each.process = None
        return [each for each in group if each.process is not None]


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _tells_something(line: bytes) -> bool:
    """Celery parts its words with empty lines; Valkey warns of forks of processes larger than ours."""
    return bool(line.strip()) and b"WARNING Memory overcommit must be enabled" not in line


class Log:
    """The lines of all programs in one stream, each after its program's name."""

    def __init__(self, out: IO[str], names: Sequence[str]) -> None:
        self._out = out
        self._width = max(len(name) for name in [*names, "up"])
        self._colour = dict(zip(names, _COLOURS * len(names), strict=False)) if out.isatty() else {}
        self._selector = selectors.DefaultSelector()

    def follow(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, (name, bytearray()))

    def copy(self, wait_s: float) -> None:
        """Write the whole lines that come within this time."""
        for key, _ in self._selector.select(wait_s):
            name, rest = key.data
            chunk = os.read(key.fd, 65_536)
            rest += chunk
            *lines, tail = rest.split(b"\n")
            rest[:] = tail
            if not chunk:
                lines = [bytes(rest)] if rest else []
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
            for line in filter(_tells_something, lines):
                self._write(name, line.decode(errors="replace"))

    def say(self, line: str) -> None:
        self._write("up", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def _write(self, name: str, line: str) -> None:
        prefix = f"{name:>{self._width}} |"
        if name in self._colour:
            prefix = f"\033[{self._colour[name]}m{prefix}\033[0m"
        with suppress(OSError):  # a closed terminal stops nothing
            self._out.write(f"{prefix} {line.rstrip()}\n")
            self._out.flush()
