"""A certificate authority of the test's own, by OpenSSL."""

import hashlib
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hilum.tls import Files
from tests.peers.helpers import program


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key."""

    certificate: Path
    key: Path

    @property
    def sha256(self) -> str:
        """Its fingerprint, as OpenSSL prints it less the colons."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()


class Authority:
    """Signs certificates; `ca` is the file that those who trust it need."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        own = self._self_signed("authority")
        self.ca, self._key = own.certificate, own.key

    def sign(self, name: str, *, days: int = 365, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificate:
        """A certificate for this machine, valid for so many days from now."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl("req", "-new", *_NEW_KEY, "-keyout", made.key, "-subj", f"/CN={name}", "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-set_serial", "0x1234"),
            *("-days", days, "-extfile", extensions, "-out", made.certificate),
        )
        return made

    def files(self, of: Certificate) -> Files:
        return Files(of.certificate, of.key, self.ca)

    def _self_signed(self, name: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-keyout", made.key, "-days", 3650),
            *("-subj", f"/CN={name}", "-out", made.certificate),
        )
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    command = [program("openssl", debian="openssl"), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
