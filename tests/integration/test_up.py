"""`hilum up`: real processes, killed and stopped."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from console.overview import ask
from console.up import locked
from hilum.errors import SettingsError
from tests.conftest import ROOT, SettingsChange
from tests.peers.helpers import answers, free_port, wait_for

WORKERS = {"prepare", "classify", "deliver", "sweep"}

Start = Callable[[str], "Up"]


class Up:
    """A supervisor at work, and its log so far."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, cwd=ROOT)

    def said(self, text: str) -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if text in line]

    def wait_for_line(self, text: str, count: int = 1, timeout_s: float = 60) -> str:
        wait_for(
            lambda: len(self.said(text)) >= count or self.process.poll() is not None,
            timeout_s,
            f"{text!r} in\n{self.log.read_text()}",
        )
        return self.said(text)[count - 1]

    def pid_of(self, name: str, count: int = 1) -> int:
        """The process number that a little program has printed."""
        return int(self.wait_for_line(f"{name} | pid ", count).split()[-1])

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Call it with what a program does, in Python: a supervisor runs it as `one`, and one called `last`."""
    running: list[Up] = []

    def start_one(program: str) -> Up:
        script = f"""
            import sys
            from console import up
            from console.programs import Program
            up.STOP_WITHIN_S = 2
            say = "import os, signal, time; print('pid', os.getpid(), flush=True); "
            one = Program("one", (sys.executable, "-c", say + {program!r}), stops=0)
            parting = "signal.signal(15, lambda *a: (print('parting'), exit())); time.sleep(600)"
            last = Program("last", (sys.executable, "-c", say + parting), stops=1, on_hangup="nothing")
            up.Supervisor([last, one], sys.stdout).run()
        """
        running.append(Up([sys.executable, "-c", textwrap.dedent(script)], tmp_path / "log"))
        return running[-1]

    yield start_one
    for up in running:
        if up.process.poll() is None:
            up.end(signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_dies_is_started_again(start: Start) -> None:
    up = start("time.sleep(600)")
    os.kill(up.pid_of("one"), signal.SIGKILL)
    assert is_alive(up.pid_of("one", count=2))
    assert "was killed by SIGKILL" in up.wait_for_line("up | ", count=2)


def test_what_keeps_dying_is_started_with_growing_pauses(start: Start) -> None:
    up = start("raise SystemExit(3)")
    up.wait_for_line("one ended with status 3; started again in 0.5 s")
    up.wait_for_line("one ended with status 3; started again in 1 s")
    up.wait_for_line("one ended with status 3; started again in 2 s")


def test_programs_are_stopped_in_order(start: Start) -> None:
    up = start("signal.signal(15, lambda *a: (time.sleep(0.5), print('parting'), exit())); time.sleep(600)")
    up.pid_of("one"), up.pid_of("last")
    assert up.end(signal.SIGTERM) == 0
    assert [line.split()[0] for line in up.said("parting")] == ["one", "last"]
    assert not is_alive(up.pid_of("last"))
    assert "stopped" in up.said("up | ")[-1]


def test_a_program_that_will_not_stop_is_killed(start: Start) -> None:
    up = start("signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)")
    up.wait_for_line("one | deaf")
    assert up.end(signal.SIGINT) == 0
    assert not is_alive(up.pid_of("one"))
    assert up.said("one does not end: killed")


def test_a_killed_supervisor_leaves_nothing_behind(start: Start) -> None:
    up = start("time.sleep(600)")
    one, last = up.pid_of("one"), up.pid_of("last")
    up.end(signal.SIGKILL)
    wait_for(lambda: not is_alive(one) and not is_alive(last), 10, "the end of both programs")


def test_what_a_dead_program_left_behind_is_killed_with_it(start: Start) -> None:
    child = "import os, time; print('child', os.getpid(), flush=True); time.sleep(600)"
    up = start(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    left = int(up.wait_for_line("one | child").split()[-1])
    os.kill(up.pid_of("one"), signal.SIGKILL)
    wait_for(lambda: not is_alive(left), 10, "the end of the child")


def test_hangup_starts_programs_anew_at_once(start: Start) -> None:
    up = start("time.sleep(600)")
    before, last = up.pid_of("one"), up.pid_of("last")
    up.process.send_signal(signal.SIGHUP)
    assert up.pid_of("one", count=2) != before
    assert not up.said("started again")
    assert is_alive(last)


def test_wrong_settings_on_hangup_start_nothing_anew(
    start: Start, hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hilum.toml"
    file.write_text("settle_s = 1")
    monkeypatch.setenv("HILUM_CONFIG", str(file))
    up = start("time.sleep(600)")
    one = up.pid_of("one")
    file.write_text("setle_s = 2")
    up.process.send_signal(signal.SIGHUP)
    assert "did you mean settle_s?" in up.wait_for_line("nothing is started anew")
    assert is_alive(one)
    file.write_text("settle_s = 2")
    up.process.send_signal(signal.SIGHUP)
    up.wait_for_line("reading the settings anew")
    assert up.pid_of("one", count=2) != one


@pytest.mark.parametrize("app", ["worker.app", "training.app"])
def test_a_worker_with_a_wrong_setting_ends_in_words(app: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "celery", "-A", app, "inspect", "ping"],
        env={"HILUM_SETLE_S": "1", "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "did you mean HILUM_SETTLE_S?" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_has_one_up_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(SettingsError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.fixture
def everything(hilum_env: SettingsChange, tmp_path: Path) -> Iterator[Up]:
    """All of Hilum, as `hilum up` runs it."""
    hilum_env(listener_port=free_port(), prepare_processes=1)
    up = Up([sys.executable, "-m", "console.cli", "up"], tmp_path / "up.log")
    yield up
    if up.process.poll() is None:
        up.end(signal.SIGTERM)


def descendants(pid: int) -> set[int]:
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    queue = [pid]
    while queue:
        new = children.get(queue.pop(), [])
        found.update(new)
        queue += new
    return found


def answering_workers() -> set[str]:
    return {name.partition("@")[0] for name in ask("ping") or {}}


def test_all_of_hilum_starts_answers_and_stops(everything: Up, hilum_env: SettingsChange) -> None:
    ours = hilum_env()
    wait_for(
        lambda: answering_workers() >= WORKERS, 120, f"answers of all workers\n{everything.log.read_text()}"
    )
    wait_for(lambda: answers(ours.listener_port), 60, "the listener")

    second = subprocess.run(
        [sys.executable, "-m", "console.cli", "up"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert "another `hilum up`" in second.stderr
    assert "Traceback" not in second.stderr

    everyone = descendants(everything.process.pid)
    assert everything.end(signal.SIGTERM) == 0
    assert not any(is_alive(pid) for pid in everyone)
    assert not answers(ours.listener_port)


def test_the_log_has_what_all_do_at_the_settings_level_and_no_noise(everything: Up) -> None:
    wait_for(lambda: answering_workers() >= WORKERS, 120, "answers of all workers")
    assert {name.partition("@")[0] for name in ask("network") or {}} >= WORKERS
    for name in WORKERS:
        everything.wait_for_line(f"INFO celery.apps.worker: {name}@")
    everything.wait_for_line("INFO celery.beat")
    wait_for(lambda: all(each is not None for each in (ask("network") or {}).values()), 10, "all answers")
    lines = everything.log.read_text().splitlines()
    assert [line for line in lines if line.rstrip().endswith("|")] == []
    noise = ("Warning: ", "WARNING Memory", "ERROR", "Unknown", "worker.sweep")
    assert [line for line in lines if any(word in line for word in noise)] == []


def test_a_killed_broker_comes_back_and_workers_answer_again(everything: Up) -> None:
    wait_for(lambda: answering_workers() >= WORKERS, 120, "answers of all workers")
    [broker] = [pid for pid in descendants(everything.process.pid) if "valkey" in command_of(pid)]
    os.kill(broker, signal.SIGKILL)
    everything.wait_for_line("broker was killed by SIGKILL")
    wait_for(lambda: answering_workers() >= WORKERS, 60, "answers of all workers once more")


def test_killing_all_of_hilum_leaves_no_process(everything: Up) -> None:
    wait_for(lambda: answering_workers() >= WORKERS, 120, "answers of all workers")
    everyone = descendants(everything.process.pid)
    assert len(everyone) > len(WORKERS)
    everything.end(signal.SIGKILL)
    wait_for(lambda: not any(is_alive(pid) for pid in everyone), 20, "the end of every process")


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
