"""A broker and a database as a hospital should run them: by TLS alone, with passwords."""

import shutil
import subprocess
from pathlib import Path

import redis

from tests.peers.certificates import Authority
from tests.peers.helpers import answers, end, free_port, program, wait_for
from tests.peers.postgres import Postgres

ROOT = Path(__file__).parents[2]
_ADMIN = "admin-of-the-test"


class SecuredBroker:
    """Redis by TLS, where `hilum` may do what the example's ACL allows and nothing else."""

    def __init__(self, folder: Path, authority: Authority, password: str) -> None:
        self.port = free_port()
        self.url = f"rediss://hilum@127.0.0.1:{self.port}/0?ssl_ca_certs={authority.ca}"
        own = authority.sign("redis")
        rules = (ROOT / "deploy" / "redis.example.acl").read_text().replace("change-me", password)
        (folder / "users.acl").write_text(f"{rules}user admin on >{_ADMIN} ~* &* +@all\n")
        settings = {
            "port": 0,
            "tls-port": self.port,
            "tls-cert-file": own.certificate,
            "tls-key-file": own.key,
            "tls-ca-cert-file": authority.ca,
            "tls-auth-clients": "no",
            "aclfile": folder / "users.acl",
            "dir": folder,
            "save": '""',
        }
        (folder / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        command = [program("redis-server", debian="redis-server"), str(folder / "redis.conf")]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.admin = redis.Redis(
            port=self.port, username="admin", password=_ADMIN, ssl=True, ssl_ca_certs=str(authority.ca)
        )
        wait_for(lambda: self._is_up(folder / "log"), what="Redis")

    def denied(self) -> list[str]:
        """What its users tried and may not."""
        return [f"{each['username']}: {each['reason']} {each['object']}" for each in self.admin.acl_log()]

    def _is_up(self, log: Path) -> bool:
        assert self._process.poll() is None, log.read_text()
        return answers(self.port)

    def stop(self) -> None:
        self.admin.close()
        end(self._process)


class SecuredPostgres(Postgres):
    """PostgreSQL that lets nobody in without TLS and a password."""

    def __init__(self, authority: Authority, password: str) -> None:
        super().__init__()
        self._authority = authority
        self._execute(f"ALTER ROLE hilum PASSWORD '{password}'")
        self._execute("CREATE DATABASE hilum")
        end(self._process)
        self._take_certificate(authority.sign("postgres", names="IP:127.0.0.1").certificate)
        (self._folder / "data" / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        self._secured = True
        self.start()

    @property
    def url(self) -> str:
        """The URL of an empty database, without the password."""
        place = f"hilum@127.0.0.1:{self.port}/hilum"
        return f"postgresql+psycopg://{place}?sslmode=verify-full&sslrootcert={self._authority.ca}"

    _secured = False

    def _take_certificate(self, certificate: Path) -> None:
        data = self._folder / "data"
        for source, name in ((certificate, "server.crt"), (certificate.with_suffix(".key"), "server.key")):
            shutil.copy(source, data / name)
            (data / name).chmod(0o600)
            if self._user:
                shutil.chown(data / name, self._user)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")

    def _accepts(self) -> bool:
        return answers(self.port) if self._secured else super()._accepts()
