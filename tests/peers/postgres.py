"""A real PostgreSQL in a folder of its own, with a fresh database for each test."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg

from tests.peers.helpers import answers, end, free_port, missing, wait_for

_DEBIAN = Path("/usr/lib/postgresql")


class Postgres:
    """A server without fsync: what is tested is our SQL, not their disk."""

    def __init__(self) -> None:
        self.port = free_port()
        # PostgreSQL refuses to run as root, and its own user cannot enter pytest's folders
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="hilum-postgres-"))
        if self._user:
            shutil.chown(self._folder, self._user)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "hilum", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        self.start()

    def start(self) -> None:
        data = str(self._folder / "data")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", data, "-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
            )
        wait_for(self._accepts, what=f"PostgreSQL on port {self.port}")

    def fresh_database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://hilum@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def dump(self, url: str, file: Path) -> None:
        """Write a database into a file, as far as the server is there."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "hilum", url.rpartition("/")[2]]
        with file.open("wb") as out:
            subprocess.run([_binary("pg_dump"), *address], stdout=out)

    def crash(self) -> None:
        """End at once, in the midst of all transactions; the next start recovers."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def stop(self) -> None:
        end(self._process)
        shutil.rmtree(self._folder)

    def _accepts(self) -> bool:
        if self._process.poll() is not None:
            missing(f"PostgreSQL does not start: {(self._folder / 'log').read_text()}")
        if not answers(self.port):
            return False
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: str) -> None:
        address = f"host=127.0.0.1 port={self.port} user=hilum dbname=postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_binary(name), *arguments], check=True, capture_output=True, user=self._user, cwd=self._folder
        )


def _binary(name: str) -> str:
    """Debian keeps the server's programs outside PATH, in a folder for each version."""
    found = shutil.which(name) or max((str(path) for path in _DEBIAN.glob(f"*/bin/{name}")), default=None)
    if found is None:
        missing(f"{name} is not installed (apt-get install postgresql)")
    return found
