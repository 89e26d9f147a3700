"""Our own listener as a process of its own, as its callers meet it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db.session import engine
from tests.peers.helpers import answers, end, free_port, wait_for

ROOT = Path(__file__).parents[2]


class Listener:
    """`python -m dicom_listener` on a free port, with settings of its own and nothing of the machine's."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = int(settings.get("listener_port") or free_port())
        self.folder = folder
        self.log_path = folder / f"listener-{free_port()}.log"
        self.database_url = str(settings.get("database_url") or f"sqlite:///{folder / 'hilum.sqlite'}")
        self.store = Path(str(settings.get("store_dir") or folder / "store"))
        values = {"data_dir": folder, "listener_port": self.port, "keep_free_mb": 1, **settings}
        env = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")}
        env |= {f"HILUM_{name.upper()}": str(value) for name, value in values.items()}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_listener"],
                cwd=folder,
                env=env | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._is_up, what="the listener's start")

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_path.read_text(errors="replace")

    @property
    def memory_mb(self) -> int:
        """What it holds in memory now, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    @property
    def processor_s(self) -> float:
        """What it has used of a processor's time, seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: proc(5)

    def session(self) -> Session:
        """A session on its database, to look with."""
        return Session(engine(self.database_url))

    def files(self, kind: str) -> list[Path]:
        """The files it keeps of a kind; `aside`: those that are not whole."""
        return sorted(path for path in (self.store / kind).rglob("*") if path.is_file())

    def read_settings_anew(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        return end(self.process, grace_s=20)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        return answers(self.port)
