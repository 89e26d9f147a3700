"""Sending to a real PACS, and asking it what it has."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import UID, JPEG2000Lossless

from console import doctor, scu
from console.cli.terminal import NotThere
from console.doctor import examine
from console.scu import Outgoing, Unusable
from db.schema import upgrade
from hilum.errors import PacsUnavailable
from hilum.pacs import Peer
from hilum.phantom import phantom
from hilum.store import INSTANCES, Store
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.helpers import free_port
from tests.peers.listener import Listener
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import AnsweringPacs
from tests.unit.test_cli import run

_numbers = count(1)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS for all of these tests: each sends objects of its own."""
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield pacs
    pacs.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two phantoms, a picture and a text, in folders below each other; no other test has these objects."""
    below, number = tmp_path / "sent" / "below", next(_numbers)
    below.mkdir(parents=True)
    phantom(2 * number, "Normal", rows=125, columns=100).save_as(below / "1.dcm", enforce_file_format=True)
    other = phantom(2 * number + 1, "Other", rows=125, columns=100, transfer_syntax_uid=JPEG2000Lossless)
    other.save_as(below.parent / "no-suffix", enforce_file_format=True)
    Image.new("L", (80, 80), number).save(below / "picture.png")
    (below / "notes.txt").write_text("no image")
    return below.parent


def peer(orthanc: Orthanc) -> Peer:
    return Peer("127.0.0.1", orthanc.port, orthanc.ae_title, "TEST")


def test_all_images_of_a_folder_arrive_and_are_found_there(folder: Path, orthanc: Orthanc) -> None:
    before = orthanc.count()
    code, text = run("send", str(folder), "--to", f"127.0.0.1:{orthanc.port}", "--called", orthanc.ae_title)
    assert (code, orthanc.count() - before) == (0, 3)
    assert "3 objects of 3 studies arrived; 1 other file passed over" in text
    ds = dcmread(folder / "no-suffix")
    assert scu.found(peer(orthanc), ds.StudyInstanceUID) == {ds.SOPInstanceUID}
    assert scu.found(peer(orthanc), "1.2.3") == set()


def test_one_object_is_told_as_one(folder: Path, orthanc: Orthanc) -> None:
    to = ("--to", f"127.0.0.1:{orthanc.port}", "--called", orthanc.ae_title)
    assert "1 object of 1 study arrived\n" in run("send", str(folder / "no-suffix"), *to)[1]


def test_a_host_without_an_address_is_said_in_words(folder: Path) -> None:
    with pytest.raises(PacsUnavailable, match="cannot be called"):
        run("send", str(folder), "--to", "nohost.invalid:104")


def test_a_sender_that_is_not_known_is_told_how_to_call_as_another(
    folder: Path, hilum_env: SettingsChange, tmp_path: Path
) -> None:
    senders = [{"ae_title": "ROOM1"}]
    listener = Listener(tmp_path, senders=json.dumps(senders))
    hilum_env(listener_port=listener.port, senders=senders)
    with pytest.raises(NotThere, match="--calling"):
        run("send", str(folder))
    listener.stop()


def test_a_compressed_file_arrives_as_it_was_compressed(folder: Path, orthanc: Orthanc) -> None:
    run("send", str(folder / "no-suffix"), "--to", f"127.0.0.1:{orthanc.port}", "--called", orthanc.ae_title)
    sent = dcmread(folder / "no-suffix")
    [received] = orthanc.datasets(sent.StudyInstanceUID)
    assert received.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert received.PixelData == sent.PixelData


def test_a_file_whose_head_is_wrong_is_sent_as_what_it_holds(folder: Path, orthanc: Orthanc) -> None:
    ds = dcmread(folder / "below" / "1.dcm")
    ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    ds.save_as(folder / "below" / "1.dcm", enforce_file_format=False)
    each = scu.described(folder / "below" / "1.dcm")
    assert isinstance(each, Outgoing)
    assert list(scu.send([each], peer(orthanc))) == [(each, None)]
    assert scu.found(peer(orthanc), ds.StudyInstanceUID) == {ds.SOPInstanceUID}


def test_what_cannot_be_sent_is_told_by_file_and_ends_with_1(folder: Path, orthanc: Orthanc) -> None:
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    (folder / "broken.png").write_text("no picture")
    before = orthanc.count()
    code, text = run("send", str(folder), "--to", f"127.0.0.1:{orthanc.port}", "--called", orthanc.ae_title)
    assert (code, orthanc.count() - before) == (1, 3)
    assert "2 not sent" in text


def test_an_object_without_a_name_is_not_sent(folder: Path) -> None:
    ds = dcmread(folder / "below" / "1.dcm")
    ds.SOPInstanceUID = ""
    ds.save_as(folder / "below" / "1.dcm", enforce_file_format=False)
    assert isinstance(scu.described(folder / "below" / "1.dcm"), Unusable)


def test_a_named_file_that_is_no_image_is_unusable(folder: Path) -> None:
    text = folder / "below" / "notes.txt"
    [found] = scu.find([text], wrapped_in=folder)
    assert isinstance(found, Unusable)


def test_many_kinds_of_objects_go_by_several_associations(
    folder: Path, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "MOST_CONTEXTS", 1)
    files = [each for each in scu.find([folder], wrapped_in=folder) if isinstance(each, Outgoing)]
    files.sort(key=lambda each: each.context)
    assert [len(group) for group in scu.by_contexts(files)] == [2, 1]
    assert [because for _, because in scu.send(files, peer(orthanc))] == [None] * 3


def test_a_pacs_is_asked_for_its_series_and_then_for_what_is_in_each() -> None:
    answering = AnsweringPacs()
    answering.stored = [("1.2", "1.2.1", "1.2.1.1"), ("1.2", "1.2.2", "1.2.2.1"), ("1.3", "1.3.1", "1.3.1.1")]
    try:
        assert scu.found(Peer("127.0.0.1", answering.port, "ANSWERS", "TEST"), "1.2") == {
            "1.2.1.1",
            "1.2.2.1",
        }
    finally:
        answering.stop()
    assert sorted(str(query.get("SeriesInstanceUID")) for query in answering.queries) == [
        "",
        "1.2.1",
        "1.2.2",
    ]


def test_a_name_that_nobody_knows_is_said_in_words() -> None:
    with pytest.raises(PacsUnavailable, match="cannot be called"):
        scu.echo(Peer("no-such-host.invalid", 104, "PACS", "TEST"))


def test_nobody_there_is_said_in_words(folder: Path) -> None:
    nobody = Peer("127.0.0.1", free_port(), "PACS", "TEST")
    with pytest.raises(PacsUnavailable, match="does not answer"):
        scu.echo(nobody)
    with pytest.raises(PacsUnavailable, match="does not answer"):
        run("send", str(folder), "--to", f"127.0.0.1:{nobody.port}")


def test_doctor_says_what_to_do_about_each_fault(hilum_env: SettingsChange, orthanc: Orthanc) -> None:
    place = {"name": "pacs", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}
    away = {**place, "name": "away", "port": free_port()}
    forgetful = AnsweringPacs(commits=False)
    committing = {**place, "final_when": "commitment"}
    other = {**committing, "name": "forgetful", "ae_title": "ANSWERS", "port": forgetful.port}
    ours = hilum_env(destinations=[committing, away, other], keep_free_mb=10**9, listener_port=free_port())
    checks = {check.name: check for check in examine()}
    forgetful.stop()
    assert "takes requests for storage commitment" in checks["destination pacs"].found
    assert "set its final_when" in checks["destination forgetful"].remedy
    assert "`hilum up` makes it" in checks["database"].found
    assert "refuse_below_mb" in checks["file store"].remedy
    assert "HILUM" in checks["destination away"].remedy
    well = ("configuration", "database", "broker", "workers", "decoders", "network", "listener")
    for name in (*well, "destination pacs"):
        assert not checks[name].remedy, name
    assert run("doctor")[0] == 1

    upgrade(ours.database)
    hilum_env(destinations=[place], keep_free_mb=0, broker_password_file=_that_others_can_read())
    code, text = run("doctor")
    assert code == 0, "what a hospital may mean so is nothing wrong"
    assert "! exposure: broker_password_file: others on this machine can read" in " ".join(text.split())


def _that_others_can_read() -> str:
    file = Path("password")
    file.touch(mode=0o644)
    return str(file.absolute())


def test_doctor_tells_of_received_files_that_no_row_names(hilum_env: SettingsChange) -> None:
    ours = hilum_env()
    assert list(doctor._lost(ours)) == []
    store = Store(ours.store)
    store.lose(store.write(b"content", INSTANCES, "1.2.3"))
    [check] = doctor._lost(ours)
    assert check.found.startswith("1 received files") and str(store.lost) in check.remedy


def test_doctor_finds_old_tables_and_queues_without_a_worker(
    hilum_env: SettingsChange, valkey: Broker
) -> None:
    ours = hilum_env(broker_url=valkey.url, listener_port=free_port())
    (ours.data_dir / "hilum.sqlite").touch()
    checks = {check.name: check for check in examine()}
    assert checks["database"].remedy == "run `hilum database upgrade`"
    assert "classify.urgent" in checks["workers"].found
    assert "start the workers" in checks["workers"].remedy


def test_doctor_finds_a_broker_that_is_away_and_a_port_that_another_program_has(
    hilum_env: SettingsChange, valkey: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "ECHO_TIMEOUT_S", 1)
    away = f"redis://127.0.0.1:{free_port()}/0"
    for senders in ([], [{"ae_title": "ROOM1"}]):
        ours = hilum_env(broker_url=away, listener_port=valkey.port, senders=senders)
        assert "broker_url" in doctor._broker(ours).remedy
        [check] = doctor._listener(ours)
        assert "listener_port" in check.remedy, senders


def test_doctor_excuses_a_listener_that_takes_no_calls_from_here(
    hilum_env: SettingsChange, tmp_path: Path
) -> None:
    elsewhere = [{"ae_title": "ROOM1", "addresses": ["192.0.2.1"]}]
    listener = Listener(tmp_path, senders=json.dumps(elsewhere))
    [check] = doctor._listener(hilum_env(listener_port=listener.port, senders=elsewhere))
    listener.stop()
    assert "rejects" in check.found
    assert not check.remedy
