"""The tables. A study, its series and instances are keyed by their own UIDs."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import Enum, TypeDecorator

from db.clock import Moment, now
from hilum.strangeness import why_refused

Uid = String(64)
AeTitle = String(16)
LONGEST_WORDS = 2000


class Words(TypeDecorator[str]):
    """What strangers and their libraries say, fit to be kept and shown: printable, and not too long."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return "".join(each if each.isprintable() else " " for each in value[:LONGEST_WORDS])


class StudyState(StrEnum):
    """How far a study has come."""

    RECEIVED = "received"
    PREPARED = "prepared"
    READ = "read"
    REPORTED = "reported"
    DELIVERED = "delivered"
    NOT_READ = "not read"
    """It holds no CR or DX image: recorded, and no report is made."""


class Role(StrEnum):
    """What an instance is to us."""

    IMAGE = "image"
    OURS = "ours"
    """A report or heat map of ours that a PACS sent back to us."""
    OTHER = "other"
    """An object without pixels: a key object note or report, in which a person may speak, or another one."""


class JobState(StrEnum):
    """What becomes of a piece of work."""

    WAITING = "waiting"
    """Due now or later; at work while it has a lease."""
    DONE = "done"
    FAILED = "failed"
    """It raised too often; a person may replay or cancel it."""
    QUARANTINED = "quarantined"
    """Its worker died too often; a person may replay or cancel it."""
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """What is known of a report at a destination."""

    WAITING = "waiting"
    SENT = "sent"
    """Every object was answered with Success; the destination's rule asks for more before it is final."""
    FINAL = "final"
    REFUSED = "refused"
    """The destination refused it for good; a person must look."""


class NetworkState(StrEnum):
    """What a network may do here."""

    CANDIDATE = "candidate"
    """It passed the gate, or a person brought it; it reads nothing yet."""
    SHADOW = "shadow"
    """It reads what the champion reads; what it finds is kept, and never sent. There is one at most."""
    CHAMPION = "champion"
    """It reads, and its findings are reported. There is one at most."""
    RETIRED = "retired"
    """It was champion and can be again."""
    REFUSED = "refused"
    """It did not pass the gate."""
    RECALLED = "recalled"
    """It must not read again."""


class RunState(StrEnum):
    """How far a training has come."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    """Its network passed the gate and is a candidate."""
    REFUSED = "refused"
    """Its network did not pass the gate."""
    TRAINED = "trained"
    """It ended with a network that no gate was asked about."""
    FAILED = "failed"


class Part(StrEnum):
    """What the images of a patient are used for, now and ever after."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ObjectKind(StrEnum):
    """What an object of a report is."""

    SR = "sr"
    SC = "sc"


class AccountRole(StrEnum):
    """What an account may do at the console."""

    READER = "reader"
    """Sees studies and says verdicts."""
    ADMINISTRATOR = "administrator"
    """Everything: also networks, trainings, destinations, what failed, and accounts."""


def _enum(of: type[StrEnum]) -> Enum:
    """Kept as its value in a text column, so that a new member needs no migration."""
    return Enum(
        of,
        native_enum=False,
        length=16,
        create_constraint=False,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    """All tables, with constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own name for it
        datetime: Moment,
        dict[str, Any]: JSON,
        StudyState: _enum(StudyState),
        Role: _enum(Role),
        JobState: _enum(JobState),
        DeliveryState: _enum(DeliveryState),
        ObjectKind: _enum(ObjectKind),
        NetworkState: _enum(NetworkState),
        RunState: _enum(RunState),
        Part: _enum(Part),
        AccountRole: _enum(AccountRole),
    }


class Study(Base):
    """One study as its sender described it."""

    __tablename__ = "studies"

    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    state: Mapped[StudyState] = mapped_column(default=StudyState.RECEIVED, index=True)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    urgent: Mapped[bool] = mapped_column(default=False)
    phantom: Mapped[bool] = mapped_column(default=False)
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)
    patient_name: Mapped[str] = mapped_column(Text, default="")
    patient_birth_date: Mapped[str] = mapped_column(String(16), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    accession_number: Mapped[str] = mapped_column(String(64), default="", index=True)
    study_date: Mapped[str] = mapped_column(String(16), default="")
    study_description: Mapped[str] = mapped_column(Text, default="")
    first_received_at: Mapped[datetime] = mapped_column(server_default=now())
    last_received_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)
    held_because: Mapped[str | None] = mapped_column(Words)
    """Why nothing of it is removed, whatever its age: a legal hold; empty when there is none."""
    files_removed_at: Mapped[datetime | None] = mapped_column()
    """When its files were removed; empty when there are any, of an image that came again for example."""
    prepared_removed_at: Mapped[datetime | None] = mapped_column()
    """When what was prepared of its images was removed; empty when there may be some."""

    instances: Mapped[list["Instance"]] = relationship(order_by="Instance.uid")

    __table_args__ = (
        Index(None, "sender_ae", "study_date"),
        # partial, so that the look for old files costs the same with a million studies whose files are gone
        Index(
            "ix_studies_with_files",
            "last_received_at",
            sqlite_where=files_removed_at.is_(None),
            postgresql_where=files_removed_at.is_(None),
        ),
        Index(
            "ix_studies_with_prepared",
            "last_received_at",
            sqlite_where=prepared_removed_at.is_(None),
            postgresql_where=prepared_removed_at.is_(None),
        ),
    )


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"

    series_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    modality: Mapped[str] = mapped_column(String(16), default="")
    series_description: Mapped[str] = mapped_column(Text, default="")


class Instance(Base):
    """One object we keep, and what became of it."""

    __tablename__ = "instances"

    uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    series_uid: Mapped[str] = mapped_column(ForeignKey("series.series_uid"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    role: Mapped[Role] = mapped_column(default=Role.IMAGE)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int]
    pixel_digest: Mapped[str] = mapped_column(String(64))
    """sha256 of Pixel Data as it was received; of the whole data set when there is none."""
    received_at: Mapped[datetime] = mapped_column(server_default=now())
    removed_at: Mapped[datetime | None]
    """When its file was removed because of its age; empty while it is there."""
    view: Mapped[str] = mapped_column(String(16), default="")
    prepared: Mapped[bool] = mapped_column(default=False)
    """False once what was prepared is removed, too: it is made again when it is needed."""
    prepared_path: Mapped[str] = mapped_column(Text, default="")
    """Folder with display.png and input.npy; empty for what is not read."""
    pixel_hash: Mapped[str] = mapped_column(String(64), default="")
    """sha256 of the decoded pixels: the same image in another transfer syntax has the same."""
    not_assessed_because: Mapped[str | None] = mapped_column(Words)
    broken: Mapped[bool] = mapped_column(default=False)
    """Whether its pixels could not be decoded; the reason stands in not_assessed_because."""
    no_verdict_because: Mapped[str | None] = mapped_column(Words)
    """Of a note or report that was read for a person's verdict: why it brought none, or not all it says."""


class Variant(Base):
    """An object that came under a known UID, with other pixels or in another study: for people to see."""

    __tablename__ = "variants"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(ForeignKey("instances.uid"), index=True)
    study_uid: Mapped[str] = mapped_column(Uid)
    """The study that it says it belongs to, of which we may hold nothing."""
    pixel_digest: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    received_at: Mapped[datetime] = mapped_column(server_default=now())

    __table_args__ = (UniqueConstraint("uid", "study_uid", "pixel_digest"),)


class Job(Base):
    """One piece of work: the record that the messages of the broker only remind of."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(96))
    study_uid: Mapped[str | None] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    state: Mapped[JobState] = mapped_column(default=JobState.WAITING)
    urgent: Mapped[bool] = mapped_column(default=False)
    generation: Mapped[int] = mapped_column(default=1)
    """Grows when the work is wanted again, so that work begun before does not count as done."""
    deaths: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(server_default=now())
    rung_at: Mapped[datetime | None]
    """When the bell on its way rings; empty when none is known to be."""
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(Words)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    done_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("kind", "subject"),
        # partial, so that the look for due work costs the same with a million studies done
        Index(
            "ix_jobs_waiting",
            "kind",
            "due_at",
            sqlite_where=state == "waiting",
            postgresql_where=state == "waiting",
        ),
        Index(
            "ix_jobs_unfinished",
            "kind",
            "state",
            "due_at",
            sqlite_where=state.not_in(["done"]),
            postgresql_where=state.not_in(["done"]),
        ),
    )


class NetworkVersion(Base):
    """A network that this place has, by its digest."""

    __tablename__ = "network_versions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    first_loaded_at: Mapped[datetime] = mapped_column(server_default=now())
    """When it came here."""
    state: Mapped[NetworkState] = mapped_column(default=NetworkState.CANDIDATE)
    path: Mapped[str] = mapped_column(Text, default="")
    """Its artefact's folder in the store; empty for one of before networks were kept there."""
    is_settings: Mapped[bool] = mapped_column(default=False)
    """Whether the settings brought it, so that another network in the settings takes its place."""
    run_id: Mapped[int | None] = mapped_column(ForeignKey("training_runs.id"))

    __table_args__ = (
        # one champion and one shadow, whoever promotes at the same time
        Index(
            "ix_network_versions_in_service",
            "state",
            unique=True,
            sqlite_where=state.in_(["champion", "shadow"]),
            postgresql_where=state.in_(["champion", "shadow"]),
        ),
    )


class NetworkChange(Base):
    """A change of what a network may do, or one person's word for it: who, when, why."""

    __tablename__ = "network_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("network_versions.digest"), index=True)
    action: Mapped[str] = mapped_column(String(16))
    """brought, approved, shadow, promoted, retired, rolled back, recalled, refused."""
    actor: Mapped[str] = mapped_column(String(128))
    because: Mapped[str] = mapped_column(Words, default="")
    at: Mapped[datetime] = mapped_column(server_default=now())


class Finding(Base):
    """What one network says of one image."""

    __tablename__ = "findings"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(ForeignKey("instances.uid"))
    pixel_hash: Mapped[str] = mapped_column(String(64))
    network_digest: Mapped[str] = mapped_column(ForeignKey("network_versions.digest"))
    preprocessing: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(32))
    probabilities: Mapped[dict[str, Any]]
    """Label -> calibrated probability in [0, 1]."""
    ood: Mapped[float]
    """Out-of-distribution score, `hilum.strangeness.Strangeness.of`: beyond 1 the image is not assessed."""
    heat: Mapped[dict[str, Any]]
    """{"rows": [[...]]}: the (h, w) Grad-CAM of the label, in [0, 1]; none of a network that has no map."""
    shadow: Mapped[bool] = mapped_column(default=False)
    """Whether the network read it as a shadow: such a finding is never reported."""
    statistics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Name -> number of the network's input, for drift; empty for findings of before."""
    engine: Mapped[str] = mapped_column(String(96), default="")
    """What computed it, in which precision and on what; empty for findings of before."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())

    __table_args__ = (UniqueConstraint("uid", "pixel_hash", "network_digest", "preprocessing"),)

    @property
    def not_assessed_because(self) -> str | None:
        """Why the image counts as not assessed though the network has read it; None when it is assessed."""
        return why_refused(self.ood)


class Report(Base):
    """One revision of what we say of a study."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_uid"))
    revision: Mapped[int]
    content_digest: Mapped[str] = mapped_column(String(64))
    """sha256 of the assessed images, their pixels and findings: with these, nothing new is made."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    removed_at: Mapped[datetime | None]
    """When its objects' files were removed because of their age."""

    objects: Mapped[list["ReportObject"]] = relationship(order_by="ReportObject.uid")

    __table_args__ = (UniqueConstraint("study_uid", "revision"),)


class ReportObject(Base):
    """One DICOM object of a report, kept as it was rendered and sent byte for byte."""

    __tablename__ = "report_objects"

    uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("reports.id"), index=True)
    kind: Mapped[ObjectKind]
    series_uid: Mapped[str] = mapped_column(Uid)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    path: Mapped[str] = mapped_column(Text)


class Delivery(Base):
    """One report on its way to one destination."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("reports.id"))
    destination: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.WAITING)
    sent_at: Mapped[datetime | None]
    final_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0)
    """How often the destination has answered, but not so that the delivery is final."""
    error: Mapped[str | None] = mapped_column(Words)

    report: Mapped[Report] = relationship()

    __table_args__ = (UniqueConstraint("report_id", "destination"),)


class Commitment(Base):
    """One request to a destination to commit itself to keeping a report's objects, and its answer."""

    __tablename__ = "commitments"

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(Uid, unique=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"), index=True)
    kept_at: Mapped[datetime] = mapped_column(server_default=now())
    """When the transaction was written down: before the destination was asked."""
    asked_at: Mapped[datetime | None]
    """When the destination had taken the request; empty when that is not known."""
    answered_at: Mapped[datetime | None]
    committed: Mapped[list[str]] = mapped_column(JSON, default=list)
    """SOP Instance UIDs."""
    failed: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """SOP Instance UID -> Failure Reason."""


class CommitmentRequest(Base):
    """A sender's request that we commit ourselves to keeping what it sent."""

    __tablename__ = "commitment_requests"

    id: Mapped[int] = mapped_column(primary_key=True)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    transaction_uid: Mapped[str] = mapped_column(Uid)
    objects: Mapped[dict[str, Any]]
    """SOP Instance UID -> SOP Class UID."""
    asked_at: Mapped[datetime] = mapped_column(server_default=now())
    reported_at: Mapped[datetime | None]
    """When the sender had taken our report."""

    __table_args__ = (UniqueConstraint("sender_ae", "transaction_uid"),)


class Circuit(Base):
    """Whether a destination is being left alone for a while, because it is away."""

    __tablename__ = "circuits"

    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    open_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Words)


class Verdict(Base):
    """What a person said of an image: a label with an author and a time."""

    __tablename__ = "verdicts"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(ForeignKey("instances.uid"), index=True)
    label: Mapped[str] = mapped_column(String(32))
    author: Mapped[str] = mapped_column(String(128))
    source: Mapped[str] = mapped_column(String(32))
    comment: Mapped[str] = mapped_column(Text, default="")
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("verdicts.id"), index=True)
    origin: Mapped[str | None] = mapped_column(String(64))
    """What brought it, so that it is not brought twice: an object's UID, or a line's digest."""
    said_at: Mapped[datetime | None]
    """When the person said so, where that is known apart from when it came."""
    created_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)

    __table_args__ = (Index(None, "uid", "origin", unique=True),)


class PatientPart(Base):
    """Which part a patient's images belong to; once in the test part, a patient stays there for ever."""

    __tablename__ = "patient_parts"

    patient: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the patient id, or of the Study Instance UID where there is none: the row names nobody."""
    part: Mapped[Part]
    since: Mapped[datetime] = mapped_column(server_default=now())


class Snapshot(Base):
    """The labelled images that one training used, frozen."""

    __tablename__ = "snapshots"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    """The list in the store: instance, label, pseudonym of the patient, source, part."""
    counts: Mapped[dict[str, Any]]
    """Part -> class -> source -> how many images."""
    left_out: Mapped[dict[str, Any]]
    """Why -> SOP Instance UIDs of labelled images that are not in it."""
    made_at: Mapped[datetime] = mapped_column(server_default=now())


class TrainingRun(Base):
    """One training of a network, from its recipe to its artefact and the gate's verdict."""

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[str | None] = mapped_column(String(32))
    """The night it is of, "2026-11-24": two beats make one run. Empty for one that a person began."""
    state: Mapped[RunState] = mapped_column(default=RunState.RUNNING)
    recipe: Mapped[dict[str, Any]]
    data_digest: Mapped[str] = mapped_column(String(64), default="")
    snapshot_digest: Mapped[str | None] = mapped_column(ForeignKey("snapshots.digest"))
    folder: Mapped[str] = mapped_column(Text, default="")
    """Where it works and keeps its checkpoints."""
    artefact: Mapped[str] = mapped_column(Text, default="")
    network_digest: Mapped[str] = mapped_column(String(64), default="")
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """epoch, epochs, loss, images_per_s, left_s, and the history of epochs."""
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The gate's verdict, with every figure it rests on; see `training.gate`."""
    tracking: Mapped[str] = mapped_column(Text, default="")
    """Where experiment tracking has it."""
    succeeded: Mapped[bool] = mapped_column(Boolean, default=False)
    error: Mapped[str | None] = mapped_column(Words)
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "slot", unique=True),)


class Alert(Base):
    """Something that a person should look at, from when it was first seen until it is over."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    """drift, constancy, training, ..."""
    subject: Mapped[str] = mapped_column(String(128))
    words: Mapped[str] = mapped_column(Words)
    raised_at: Mapped[datetime] = mapped_column(server_default=now())
    seen_at: Mapped[datetime] = mapped_column(server_default=now())
    """When it was last found to be so."""
    ended_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        Index(
            "ix_alerts_open",
            "kind",
            "subject",
            unique=True,
            sqlite_where=ended_at.is_(None),
            postgresql_where=ended_at.is_(None),
        ),
    )


class DriftReference(Base):
    """What the images of a sender and view were like at first: what later ones are compared with."""

    __tablename__ = "drift_references"

    sender_ae: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    view: Mapped[str] = mapped_column(String(16), primary_key=True)
    network_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The network that found what is compared; empty: of the images themselves, whoever reads them."""
    images: Mapped[int] = mapped_column(default=0)
    values: Mapped[dict[str, Any]]
    """Name -> what it was in each of these images."""
    until_finding: Mapped[int] = mapped_column(default=0)
    """The last finding that it was made of, or that came before it."""
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    compared: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What the last look said: at, images, and of each name its distance; empty before the first."""


class DriftHold(Base):
    """A sender whose studies' results are held back, until a person ends it."""

    __tablename__ = "drift_holds"

    sender_ae: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    because: Mapped[str] = mapped_column(Words)
    since: Mapped[datetime] = mapped_column(server_default=now())


class ConstancyRun(Base):
    """One going of the phantoms through the whole chain."""

    __tablename__ = "constancy_runs"

    slot: Mapped[str] = mapped_column(String(32), primary_key=True)
    """The day it is of, or the moment at which a person asked for it."""
    studies: Mapped[dict[str, Any]]
    """Phantom -> the Study Instance UID that it has this time."""
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    sent_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    passed: Mapped[bool | None]
    words: Mapped[str] = mapped_column(Words, default="")
    """What was wrong; or what was recorded for the first time."""
    found: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Phantom -> what was found of it."""


class ConstancyRecord(Base):
    """What a network finds in a phantom, computed by an engine: what it must find each time."""

    __tablename__ = "constancy_records"

    network_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    engine: Mapped[str] = mapped_column(String(96), primary_key=True)
    phantom: Mapped[str] = mapped_column(String(64), primary_key=True)
    found: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime] = mapped_column(server_default=now())


class Audit(Base):
    """What people did: who, when, what, to which study."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=now())
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    study_uid: Mapped[str | None] = mapped_column(Uid, index=True)
    detail: Mapped[str] = mapped_column(Text, default="")


class Account(Base):
    """A person, or a program, that may use the console. Accounts are disabled, never removed."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    """In small letters; it is the author of the account's verdicts, and the actor in the audit."""
    role: Mapped[AccountRole]
    password: Mapped[str] = mapped_column(Text, default="")
    """Argon2id with its salt and costs; empty until the person has chosen one."""
    language: Mapped[str] = mapped_column(String(8), default="")
    """en or fr; empty: the browser's."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    disabled_at: Mapped[datetime | None]


class WebSession(Base):
    """A browser that has logged in."""

    __tablename__ = "web_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of the secret in the browser's cookie."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ApiToken(Base):
    """What a program shows instead of a password."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """sha256 of the token."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    """What it is for."""
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class OneTimeLink(Base):
    """A link by which the person of an account chooses a password, once."""

    __tablename__ = "one_time_links"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of the secret in the link."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Removal(Base):
    """A file or folder of the store that no row names any more, and that is to be removed."""

    __tablename__ = "removals"

    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    study_uid: Mapped[str | None] = mapped_column(Uid)


class RemovedStudy(Base):
    """What stays of a study whose rows were removed, so that its next report has another number."""

    __tablename__ = "removed_studies"

    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    revision: Mapped[int]
    removed_at: Mapped[datetime] = mapped_column(server_default=now())


class Backup(Base):
    """One backup; while its lease holds, no file is removed."""

    __tablename__ = "backups"

    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(Text)
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    """When it was whole; empty while it runs, and when it failed."""
    files: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class LedgerDay(Base):
    """What a source PACS listed of one day's studies, and how far we are with them: the day's sum."""

    __tablename__ = "ledger_days"

    source: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    """The Study Date, as the source writes it."""
    counted_at: Mapped[datetime | None]
    """When the source last told what it has; the counts are of then."""
    not_asked_because: Mapped[str | None] = mapped_column(Words)
    """Why the source told nothing when it was last to be asked; empty when it did."""
    counts: Mapped[dict[str, Any]]
    """Step -> how many, `db.ledger.Counts`."""
    digest: Mapped[str] = mapped_column(String(64), default="")
    """sha256 of the SOP Instance UIDs that the source listed, sorted, a line each."""
