"""What was found, reported, delivered and committed."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import now
from db.tables.base import AeTitle, Base, Uid, Words
from db.tables.states import DeliveryState, ObjectKind
from hilum.strangeness import why_refused


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
