"""What calls others by DICOM TLS: destinations, `hilum send` and `hilum doctor`, to DCMTK's storescp."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from console import doctor, scu
from console.scu import Outgoing
from hilum.errors import PacsUnavailable
from hilum.pacs import Peer
from hilum.settings import Destination
from hilum.tls import Files
from tests.conftest import SettingsChange
from tests.integration.radiographs import radiograph
from tests.peers.certificates import Authority, Certificate
from tests.peers.helpers import answers, end, free_port, program, wait_for
from worker.pacs import Pacs


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certificate:
    return authority.sign("ours", days=20)


@pytest.fixture(scope="module")
def port(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a PACS that wants a certificate of the authority."""
    theirs, port, folder = authority.sign("pacs"), free_port(), tmp_path_factory.mktemp("pacs")
    tls = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.ca)]
    command = [program("storescp", debian="dcmtk"), "-aet", "PACS", "-od", str(folder), *tls, str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: answers(port), what="storescp")
    yield port
    end(process)


def destination(port: int, host: str = "localhost") -> Destination:
    return Destination(name="pacs", ae_title="PACS", host=host, port=port, tls=True)


def peer(port: int, files: Files, host: str = "localhost") -> Peer:
    return Peer(host, port, "PACS", "HILUM", files)


def test_a_destination_is_called_by_tls(authority: Authority, ours: Certificate, port: int) -> None:
    pacs = Pacs(peer(port, authority.files(ours)))
    pacs.echo()
    assert pacs._assoc is not None
    secured = pacs._assoc.dul.socket.socket  # type: ignore[union-attr]
    assert secured.version() == "TLSv1.3"  # type: ignore[union-attr]
    pacs.close()


def test_a_destination_that_we_cannot_trust_gets_nothing(
    authority: Authority, ours: Certificate, port: int, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    of_others = Files(ours.certificate, ours.key, stranger.ca)
    with pytest.raises(PacsUnavailable, match="the TLS handshake fails: its certificate is refused"):
        Pacs(peer(port, of_others)).echo()
    with pytest.raises(PacsUnavailable, match=r"certificate is not valid for '127\.0\.0\.2'"):
        Pacs(peer(port, authority.files(ours), "127.0.0.2")).echo()
    with pytest.raises(PacsUnavailable, match="it wants a certificate of ours"):
        Pacs(peer(port, Files(None, None, authority.ca))).echo()
    with pytest.raises(PacsUnavailable, match=r"tls_ca \(.*/not/there\): No such file"):
        Pacs(peer(port, Files(None, None, Path("/not/there")))).echo()


def test_files_are_sent_by_tls(authority: Authority, ours: Certificate, port: int, tmp_path: Path) -> None:
    ds = radiograph()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    found = scu.described(tmp_path / "1.dcm")
    assert isinstance(found, Outgoing)
    assert list(scu.send([found], peer(port, authority.files(ours)))) == [(found, None)]


def test_the_doctor_tells_of_certificates_that_end_and_of_handshakes_that_fail(
    authority: Authority, ours: Certificate, port: int, hilum_env: SettingsChange
) -> None:
    hilum_env(
        tls_certificate=ours.certificate,
        tls_key=ours.key,
        tls_ca=authority.ca,
        listener_tls_port=free_port(),
        destinations=[
            destination(port).model_dump(mode="json"),
            destination(port, "127.0.0.2").model_dump(mode="json") | {"name": "misnamed"},
        ],
        listener_port=free_port(),
        keep_free_mb=1,
    )
    checks = {each.name: each for each in doctor.examine()}
    assert "in 19 days" in checks["tls_certificate"].found
    assert checks["tls_certificate"].remedy.startswith("renew it")
    assert checks["tls_ca"].remedy == ""
    assert "is free" in checks["listener by TLS"].found
    assert checks["destination pacs"].found == f"PACS at localhost:{port} answers C-ECHO"
    assert "the TLS handshake fails: its certificate is refused" in checks["destination misnamed"].found
