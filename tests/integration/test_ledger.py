"""The ledger of what a source PACS has: what it lists, what lacks, and how that is closed."""

import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pydicom.config
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, evt
from pynetdicom.events import Event
from sqlalchemy import delete, select
from typer.testing import CliRunner

from console import cli
from console.cli.terminal import NotThere
from console.doctor import examine
from console.ledger import latest
from db import findings, jobs, ledger, reports, studies
from db.findings import Read
from db.ledger import Counts, Day
from db.schema import upgrade
from db.session import transaction
from db.studies import Preparation
from db.tables import Audit, Instance, Job, JobState, RemovedStudy, Study, StudyState
from dicom_listener.fetched import keeper
from hilum import pacs
from hilum.queue import CLASSIFY, PREPARE
from hilum.settings import Sender, settings
from tests.conftest import SettingsChange
from tests.integration.conftest import StartListener
from tests.integration.radiographs import new_uid, radiograph
from tests.peers import scu
from tests.peers.certificates import Authority
from tests.peers.helpers import free_port
from tests.peers.orthanc import Orthanc
from tests.peers.studies import claim, job, receive
from worker.ledger import close, days_to_take, moment, take, take_stock

LONG_AGO = datetime(2026, 1, 1, 12, tzinfo=UTC)
_days = (date(2026, 1, 1) + timedelta(days=2 * number) for number in range(100))

Source = Callable[..., Sender]

both_databases = pytest.mark.usefixtures("database_url")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS that all tests share; each has a day of its own."""
    orthanc = Orthanc(tmp_path_factory.mktemp("archive"))
    yield orthanc
    orthanc.stop()


@pytest.fixture
def day() -> date:
    """A day on which nothing was made, as on the one after it."""
    return next(_days)


@pytest.fixture
def source(archive: Orthanc, hilum_env: SettingsChange) -> Source:
    """Call it with settings of the sender that the archive is; it comes back as it is in force."""

    def change(**values: object) -> Sender:
        place = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": archive.port, "retrieve": "c-move"}
        hilum_env(senders=[place | values])
        return settings().senders[0]

    upgrade(settings().database)
    return change


def image(day: date, **changes: object) -> Dataset:
    return radiograph(StudyDate=f"{day:%Y%m%d}", **changes)


def images(day: date, count: int) -> list[Dataset]:
    """Images of one series."""
    study_uid = new_uid()
    same = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": f"{study_uid}.1"}
    return [image(day, **same) for _ in range(count)]


def store(orthanc: Orthanc, *objects: Dataset) -> None:
    """Have the source get these objects, of which we hear nothing."""
    statuses = scu.send(orthanc.port, *map(scu.parcel, objects), called="ORTHANC")
    assert statuses == [scu.SUCCESS] * len(objects)


def received(ds: Dataset, *, long_ago: bool = True, accession_number: str = "") -> None:
    """Record an object as the listener does when the source has sent it."""
    receive(
        uid=ds.SOPInstanceUID,
        study_uid=ds.StudyInstanceUID,
        series_uid=ds.SeriesInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        study_date=ds.StudyDate,
        sender_ae="ORTHANC",
        path=f"instances/{ds.SOPInstanceUID}.dcm",
        accession_number=accession_number,
    )
    with transaction() as session:
        if long_ago:
            session.get_one(Study, ds.StudyInstanceUID).last_received_at = LONG_AGO


def taken(sender: Sender, *days: date) -> list[Day]:
    return list(take(sender, days, settings()))


def lacking(day: Day) -> dict[str, str]:
    return {gap.study_uid: gap.missing for gap in day.gaps}


def given_up(ds: Dataset, because: str, *, kind: str = PREPARE) -> None:
    """Have a piece of work on a received study fail for good."""
    held = claim(kind, ds.StudyInstanceUID)
    assert held is not None
    with transaction() as session:
        jobs.give_up(session, held, because=because)


def final(ds: Dataset) -> None:
    """Have a received study read, reported and final at the one destination."""
    study_uid = ds.StudyInstanceUID
    with transaction() as session:
        images = studies.images(session, study_uid)
        done = [Preparation(each.uid, prepared_path="p", pixel_hash="h") for each in images]
        studies.save_preparations(session, done)
        findings.note_network(session, digest="n", version="1", manifest={})
        reads = [Read(each.uid, "h", "Normal", {"Normal": 1.0}, 0.1, []) for each in images]
        findings.save(session, reads, network_digest="n", preprocessing="1")
        report = reports.add(session, study_uid, revision=1, content_digest="c", objects=[])
        reports.note_final(session, reports.send_to(session, report, "pacs").id)
        session.execute(delete(Job).where(Job.study_uid == study_uid))


@both_databases
def test_a_day_is_counted_from_what_the_source_has_to_what_is_final(
    archive: Orthanc, source: Source, day: date
) -> None:
    whole, half, [never] = images(day, 2), images(day, 2), images(day, 1)
    ct = {"SOPClassUID": CTImageStorage, "Modality": "CT"}
    same_study = image(day, StudyInstanceUID=whole[0].StudyInstanceUID, **ct)
    store(archive, *whole, *half, never, same_study, image(day, **ct), image(day + timedelta(days=1)))
    for ds in (*whole, half[0]):
        received(ds)
    final(whole[0])
    [told] = taken(source(), day)
    assert told.counts == Counts(
        listed_studies=3,
        listed_images=5,
        missing_images=2,
        held_images=3,
        eligible_images=2,
        read_images=2,
        reported_studies=1,
        final_studies=1,
        gaps=2,
    )
    assert lacking(told) == {
        half[0].StudyInstanceUID: "1 of 2 images",
        never.StudyInstanceUID: "1 of 1 images",
    }
    with transaction() as session:
        [kept] = ledger.days(session, day, day, source="ORTHANC")
    assert (kept.counts, kept.not_asked_because) == (asdict(told.counts), None)
    uids = sorted(ds.SOPInstanceUID for ds in (*whole, *half, never))
    assert kept.digest == hashlib.sha256("".join(f"{uid}\n" for uid in uids).encode()).hexdigest()


def test_a_gap_tells_what_lacks_since_when_and_why(archive: Orthanc, source: Source, day: date) -> None:
    never, stuck = image(day, AccessionNumber="A1", StudyTime="093015.5"), image(day)
    store(archive, never, stuck)
    received(stuck, accession_number="A2")
    given_up(stuck, "the pixels cannot be read")
    gaps = {gap.accession_number: gap for gap in taken(source(), day)[0].gaps}
    assert (gaps["A1"].missing, gaps["A1"].because) == ("1 of 1 images", "never received")
    assert gaps["A1"].since == datetime(day.year, day.month, day.day, 9, 30, 15).astimezone()
    assert (gaps["A2"].missing, gaps["A2"].because) == ("preparation", "the pixels cannot be read")
    assert gaps["A2"].since == LONG_AGO


def test_a_report_that_is_not_final_at_a_destination_is_a_gap(source: Source, day: date) -> None:
    ds = image(day)
    received(ds)
    final(ds)
    with transaction() as session:
        newest = reports.latest(session, ds.StudyInstanceUID)
        assert newest is not None
        reports.send_to(session, newest, "second")
        studies.reach(session, ds.StudyInstanceUID, StudyState.REPORTED)
    assert lacking(taken(source(), day)[0]) == {ds.StudyInstanceUID: "delivery to second"}


def test_what_came_just_now_is_no_gap_yet(archive: Orthanc, source: Source, day: date) -> None:
    ds = image(day)
    store(archive, ds)
    received(ds, long_ago=False)
    counts = taken(source(), day)[0].counts
    assert (counts.waiting_studies, counts.gaps) == (1, 0)


def test_what_the_source_has_deleted_since_is_still_followed(source: Source, day: date) -> None:
    ds = image(day)
    received(ds)
    [told] = taken(source(), day)
    assert (told.counts.listed_studies, told.counts.unlisted_studies) == (0, 1)
    assert lacking(told) == {ds.StudyInstanceUID: "preparation"}


def test_images_that_went_with_their_age_are_not_missing(archive: Orthanc, source: Source, day: date) -> None:
    [gone], [late, early] = images(day, 1), images(day, 2)
    store(archive, gone, late, early)
    with transaction() as session:
        session.add(RemovedStudy(study_uid=gone.StudyInstanceUID, revision=1))
        session.add(RemovedStudy(study_uid=late.StudyInstanceUID, revision=1))
    received(late)
    [told] = taken(source(), day)
    assert (told.counts.final_studies, told.counts.missing_images) == (1, 0)
    assert lacking(told) == {late.StudyInstanceUID: "preparation"}


def test_a_study_is_listed_whatever_its_time(archive: Orthanc, source: Source, day: date) -> None:
    times = ["000000", "235959.999", "09", "120000.000001", None]
    store(archive, *(image(day, StudyTime=each) for each in times))
    first, next_ = taken(source(), day, day + timedelta(days=1))
    assert (first.counts.listed_studies, next_.counts.listed_studies) == (len(times), 0)


def test_a_source_that_cannot_tell_a_whole_day_is_asked_by_the_hour(
    tmp_path: Path, source: Source, day: date
) -> None:
    capped = Orthanc(tmp_path, LimitFindResults=3)
    made = [image(day, StudyTime=f"{hour:02}5959.9") for hour in range(8, 14)]
    try:
        store(capped, *made)
        assert taken(source(port=capped.port), day)[0].counts.listed_studies == len(made)
    finally:
        capped.stop()


Matches = Iterable[tuple[int, Dataset | None]]
Answers = Matches | Callable[[Dataset], Matches]


class Strange:
    """A source whose answers to C-FIND are the test's, by level; it breaks off at another level."""

    def __init__(self, **answers: Answers) -> None:
        self._answers = answers
        ae = AE("ORTHANC")
        ae.add_supported_context(pacs.FIND)
        self.port = free_port()
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)]
        )

    def stop(self) -> None:
        self._server.shutdown()  # type: ignore[union-attr]

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        answers = self._answers.get(event.identifier.QueryRetrieveLevel)
        if answers is None:
            event.assoc.abort()
        elif callable(answers):
            yield from answers(event.identifier)
        else:
            yield from answers


def match(**values: str) -> tuple[int, Dataset]:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return 0xFF00, ds


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Strange]]:
    """Call it with answers by level for a source that gives them."""
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)
    started: list[Strange] = []

    def start(**answers: Answers) -> Strange:
        started.append(Strange(**answers))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_a_long_answer_may_have_been_cut_off_and_is_asked_for_by_the_hour(
    strange: Callable[..., Strange], source: Source, day: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_most_three(query: Dataset) -> Matches:
        hour = str(query.get("StudyTime", ""))[:2]
        return [
            match(StudyInstanceUID=f"1.2.{each}") for each in range(10, 15) if str(each).startswith(hour)
        ][:3]

    asked = strange(
        STUDY=at_most_three,
        SERIES=lambda query: [match(SeriesInstanceUID=f"{query.StudyInstanceUID}.1", Modality="DX")],
        IMAGE=lambda query: [match(SOPInstanceUID=f"{query.SeriesInstanceUID}.1")],
    )
    monkeypatch.setattr("worker.source.MOST_BELIEVED", 3)
    assert taken(source(port=asked.port), day)[0].counts.listed_images == 5


def test_what_is_no_uid_is_passed_over(strange: Callable[..., Strange], source: Source, day: date) -> None:
    odd = ("../../evil", "1.2.3/4", "1" * 65, "")
    asked = strange(
        STUDY=[
            *(match(StudyInstanceUID=uid) for uid in odd),
            match(StudyInstanceUID="1.2.3"),
            match(StudyTime="9"),
        ],
        SERIES=[
            *(match(SeriesInstanceUID=uid, Modality="DX") for uid in odd),
            match(SeriesInstanceUID="1.2.3.4", Modality="CR"),
            match(SeriesInstanceUID="1.2.3.5", Modality="PR"),
            match(SeriesInstanceUID="1.2.3.6"),
        ],
        IMAGE=[*(match(SOPInstanceUID=uid) for uid in odd), match(SOPInstanceUID="1.2.3.4.5")],
    )
    [told] = taken(source(port=asked.port), day)
    assert told.not_asked_because is None
    assert (told.counts.listed_studies, told.counts.listed_images) == (1, 1)


def test_a_source_that_breaks_off_is_not_asked(
    strange: Callable[..., Strange], source: Source, day: date
) -> None:
    studies_alone = strange(STUDY=[match(StudyInstanceUID="1.2.3")])
    [told] = taken(source(port=studies_alone.port), day)
    assert told.not_asked_because is not None
    fails_then = strange(STUDY=[match(StudyInstanceUID="1.2.3")], SERIES=[(0xA700, None)])
    [told] = taken(source(port=fails_then.port), day)
    assert "0xA700" in (told.not_asked_because or "")


def test_a_source_is_called_by_tls_when_it_calls_so(
    tmp_path: Path, source: Source, hilum_env: SettingsChange, day: date
) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.sign("pacs"), authority.sign("ours")
    orthanc = Orthanc(
        tmp_path,
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(theirs.certificate),
        DicomTlsPrivateKey=str(theirs.key),
        DicomTlsTrustedCertificates=str(authority.ca),
    )
    try:
        hilum_env(
            tls_certificate=ours.certificate, tls_key=ours.key, tls_ca=authority.ca, listener_tls_port=2762
        )
        [plainly] = taken(source(port=orthanc.port), day)
        [secured] = taken(source(port=orthanc.port, tls=True), day)
    finally:
        orthanc.stop()
    assert plainly.not_asked_because is not None
    assert secured.not_asked_because is None


@both_databases
def test_a_source_that_is_away_is_said_to_be_and_what_it_told_before_stands(
    archive: Orthanc, source: Source, day: date
) -> None:
    store(archive, image(day))
    taken(source(), day)
    told = taken(source(port=free_port()), day, day + timedelta(days=1))
    assert [each.not_asked_because is None for each in told] == [False, False]
    with transaction() as session:
        kept = ledger.days(session, day, day + timedelta(days=1), source="ORTHANC")
        assert days_to_take(session, "ORTHANC", day + timedelta(days=7))[:2] == [each.day for each in kept]
    assert [each.counts["listed_studies"] for each in kept] == [1, 0]
    assert "does not answer" in (kept[0].not_asked_because or "")
    taken(source(), day)
    with transaction() as session:
        [again] = ledger.days(session, day, day, source="ORTHANC")
    assert again.not_asked_because is None


@both_databases
def test_each_hour_the_days_with_gaps_are_asked_for_again_and_the_last_two(day: date) -> None:
    with transaction() as session:
        assert days_to_take(session, "PACS", day) == [day], "nothing from before the first time"
        for number, gaps in ((20, 1), (5, 0), (4, 1), (3, 0), (1, 0)):
            ledger.keep(session, "PACS", day - timedelta(days=number), Counts(gaps=gaps), [])
        again = [(day - each).days for each in days_to_take(session, "PACS", day)]
    assert again == [14, 13, 12, 11, 10, 9, 8, 7, 6, 4, 2, 1, 0]


def test_the_hourly_task_counts_today_and_tells_of_gaps(
    archive: Orthanc, source: Source, hilum_env: SettingsChange, caplog: pytest.LogCaptureFixture
) -> None:
    today = datetime.now().astimezone().date()
    ds = image(today, StudyTime="000000")
    store(archive, ds)
    source()
    hilum_env(ledger_grace_s=0)
    take_stock()
    assert f"study {ds.StudyInstanceUID} of ORTHANC lacks 1 of 1 images: never received" in caplog.text
    with transaction() as session:
        assert [each.day for each in ledger.days(session, today, today, source="ORTHANC")] == [today]


def test_what_never_came_is_asked_for_by_c_move(
    archive: Orthanc, source: Source, day: date, start_listener: StartListener
) -> None:
    listener = start_listener(database_url=settings().database)
    archive.know("HILUM", listener.port)
    first, second = images(day, 2)
    store(archive, first, second)
    received(first)
    sender = source()
    assert closed(sender, day) == "1 of 1 images came"
    assert taken(sender, day)[0].counts.missing_images == 0
    with transaction() as session:
        assert session.get_one(Instance, second.SOPInstanceUID).sender_ae == "ORTHANC"


def test_a_source_that_does_not_know_us_is_to_be_told(
    archive: Orthanc, source: Source, hilum_env: SettingsChange, day: date
) -> None:
    hilum_env(listener_ae_title="NOBODY")
    store(archive, image(day))
    assert "0 of 1 images came: " in closed(source(), day)


def test_what_never_came_is_fetched_by_c_get_and_kept_as_what_is_pushed(
    archive: Orthanc, source: Source, day: date
) -> None:
    ds = image(day)
    store(archive, ds)
    sender = source(retrieve="c-get", ae_title="PACS", query_ae_title="ORTHANC", urgent=True)
    assert closed(sender, day) == "1 of 1 images came"
    with transaction() as session:
        instance = session.get_one(Instance, ds.SOPInstanceUID)
        assert (instance.sender_ae, session.get_one(Study, ds.StudyInstanceUID).urgent) == ("PACS", True)
    kept = dcmread(settings().store / instance.path)
    assert kept.PixelData == ds.PixelData
    assert job(PREPARE, ds.StudyInstanceUID).state == JobState.WAITING


def test_what_is_fetched_keeps_its_compression(archive: Orthanc, source: Source, day: date) -> None:
    ds = image(day)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    sent = scu.Parcel(ds.SOPClassUID, ds.SOPInstanceUID, scu.encoded(ds), JPEG2000Lossless)
    assert scu.send(archive.port, sent, called="ORTHANC") == [scu.SUCCESS]
    assert closed(source(retrieve="c-get"), day) == "1 of 1 images came"
    with transaction() as session:
        instance = session.get_one(Instance, ds.SOPInstanceUID)
    assert instance.transfer_syntax_uid == JPEG2000Lossless
    assert dcmread(settings().store / instance.path).PixelData == ds.PixelData


def test_what_is_fetched_into_a_full_store_is_not_taken(
    archive: Orthanc, source: Source, hilum_env: SettingsChange, day: date
) -> None:
    hilum_env(keep_free_mb=10**9)
    store(archive, image(day))
    assert "0 of 1 images came: ORTHANC could not send" in closed(source(retrieve="c-get"), day)
    assert [path for path in settings().store.rglob("*") if path.is_file()] == []


def test_work_that_stopped_is_done_again(source: Source, day: date) -> None:
    ds = image(day)
    received(ds)
    given_up(ds, "no")
    assert closed(source(), day) == f"to be done again: {PREPARE}"
    assert job(PREPARE, ds.StudyInstanceUID).state == JobState.WAITING
    assert closed(source(), day) == "it waits for its turn"
    with transaction() as session:
        noted = session.scalars(select(Audit).order_by(Audit.id)).all()
    assert [(each.actor, each.study_uid, each.detail) for each in noted] == [
        ("me", ds.StudyInstanceUID, f"to be done again: {PREPARE}"),
        ("me", ds.StudyInstanceUID, "it waits for its turn"),
    ]


def test_a_study_whose_work_is_lost_is_begun_anew(source: Source, day: date) -> None:
    ds = image(day)
    received(ds)
    with transaction() as session:
        session.execute(delete(Job))
    [gap] = taken(source(), day)[0].gaps
    assert gap.because == "no work is left for it"
    assert closed(source(), day) == f"to be done again: {PREPARE}"
    assert job(PREPARE, ds.StudyInstanceUID).state == JobState.WAITING


def test_what_a_person_has_cancelled_is_told_and_left_alone(source: Source, day: date) -> None:
    ds = image(day)
    received(ds)
    with transaction() as session:
        jobs.cancel(session, ds.StudyInstanceUID)
        jobs.want(session, CLASSIFY, ds.StudyInstanceUID, study_uid=ds.StudyInstanceUID)
    given_up(ds, "no", kind=CLASSIFY)
    [gap] = taken(source(), day)[0].gaps
    assert gap.because == "cancelled by a person: `hilum replay` takes it up"
    closed(source(), day)
    assert job(PREPARE, ds.StudyInstanceUID).state == JobState.CANCELLED


def closed(sender: Sender, day: date) -> str:
    """What came of closing the day's one gap."""
    [gap] = taken(sender, day)[0].gaps
    with keeper() as keep:
        return close(gap, sender, settings(), keep, actor="me")


@pytest.mark.parametrize(
    ("day", "study_time", "expected"),
    [
        (date(2026, 7, 1), "093015.25", "2026-07-01T07:30:15"),
        (date(2026, 7, 1), "09", "2026-07-01T07:00:00"),
        (date(2026, 7, 1), "", "2026-07-01T21:59:59.999999"),
        (date(2026, 7, 1), "noon", "2026-07-01T21:59:59.999999"),
        (date(2026, 7, 1), "235960", "2026-07-01T21:59:59"),
        (date(2026, 10, 25), "023000", "2026-10-25T01:30:00"),
    ],
    ids=["summer", "hour alone", "none", "nonsense", "leap second", "the hour that comes twice"],
)
def test_a_studys_time_is_local_and_rather_late_than_early(
    day: date, study_time: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        found = moment(day, study_time)
    time.tzset()
    assert found.astimezone(UTC).replace(tzinfo=None).isoformat() == expected


def run(*arguments: str) -> tuple[int, str]:
    """Exit status and output of `hilum ledger`; errors meant for its `main` come out as they are."""
    result = CliRunner().invoke(cli.app, ["ledger", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def only(day: date) -> list[str]:
    return ["--from", day.isoformat(), "--to", day.isoformat()]


def test_the_command_lists_gaps_and_closes_them(archive: Orthanc, source: Source, day: date) -> None:
    ds = image(day, AccessionNumber="A4711", StudyTime="0930")
    store(archive, ds)
    source(retrieve="c-get")
    status, told = run(*only(day))
    assert status == 1
    for words in (
        day.isoformat(),
        "ORTHANC",
        "A4711",
        "1 of 1 images",
        "never received",
        ds.StudyInstanceUID,
    ):
        assert words in told
    status, told = run(*only(day), "--close")
    assert (status, f"{ds.StudyInstanceUID}: 1 of 1 images came" in told) == (1, True)
    assert run(*only(day))[0] == 0, "it has just come, and waits for its turn"


def test_the_command_tells_programs_the_same(archive: Orthanc, source: Source, day: date) -> None:
    ds = image(day, AccessionNumber="A4711")
    store(archive, ds)
    source(retrieve="c-get")
    status, told = run(*only(day), "--json", "--close")
    [only_day] = json.loads(told)
    [gap] = only_day.pop("gaps")
    assert (status, only_day["source"], only_day["day"]) == (1, "ORTHANC", day.isoformat())
    assert (only_day["not_asked_because"], only_day["counts"]["missing_images"]) == (None, 1)
    assert (gap["study_uid"], gap["accession_number"]) == (ds.StudyInstanceUID, "A4711")
    assert (gap["because"], gap["closed"]) == ("never received", "1 of 1 images came")


def test_the_sums_of_past_days_are_printed_without_asking(
    archive: Orthanc, source: Source, day: date
) -> None:
    store(archive, image(day))
    source()
    run(*only(day))
    source(port=free_port())
    run(*only(day + timedelta(days=1)))
    status, told = run("--daily", "--from", day.isoformat(), "--to", (day + timedelta(days=1)).isoformat())
    first, second = csv.DictReader(told.splitlines())
    assert (status, first["source"], first["day"], first["gaps"]) == (0, "ORTHANC", day.isoformat(), "1")
    assert (first["listed_images"], first["not_asked_because"], len(first["digest"])) == ("1", "", 64)
    assert datetime.fromisoformat(first["counted_at"]).tzinfo is not None
    assert (second["listed_images"], second["counted_at"], second["digest"]) == ("", "", "")
    assert "does not answer" in second["not_asked_because"]
    assert run("--daily", *only(day), "--source", "OTHER")[1].count("\n") == 1


def test_a_source_that_is_away_is_told_and_the_exit_status_says_so(source: Source, day: date) -> None:
    source(port=free_port())
    status, told = run(*only(day))
    assert (status, "not asked: ORTHANC" in told) == (1, True)


def test_who_may_not_be_asked_is_named(source: Source, hilum_env: SettingsChange, day: date) -> None:
    source()
    with pytest.raises(NotThere, match="'OTHER' is no sender that may be asked; there is ORTHANC"):
        run(*only(day), "--source", "OTHER")
    hilum_env(senders=[])
    with pytest.raises(NotThere, match="no sender may be asked"):
        run()


def test_days_the_wrong_way_round_are_refused(source: Source) -> None:
    assert run("--from", "2026-02-02", "--to", "2026-02-01")[0] == 2


def test_the_doctor_says_what_the_ledger_knows(source: Source) -> None:
    sender = source()
    today = datetime.now().astimezone().date()
    assert latest(sender.ae_title)[0].startswith("not counted yet")
    with transaction() as session:
        ledger.keep(session, sender.ae_title, today - timedelta(days=1), Counts(gaps=2), [])
        ledger.keep(session, sender.ae_title, today, Counts(), [])
    assert latest(sender.ae_title)[0] == "2 gaps in the last 14 days"
    with transaction() as session:
        ledger.keep(session, sender.ae_title, today - timedelta(days=1), Counts(), [])
    assert latest(sender.ae_title)[1] == ""
    with transaction() as session:
        for each in ledger.days(session, today - timedelta(days=1), today):
            each.counted_at = datetime.now(UTC) - timedelta(hours=4)
    assert latest(sender.ae_title)[1] == "look whether beat and a deliver worker run"
    with transaction() as session:
        ledger.note_not_asked(session, sender.ae_title, today, "it is away")
    assert latest(sender.ae_title)[0] == "not asked: it is away"
    checks = {check.name: check.found for check in examine()}
    assert checks["ledger of ORTHANC"] == "not asked: it is away"
