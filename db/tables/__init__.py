"""The tables. A study, its series and instances are keyed by their own UIDs."""

from db.tables.base import LONGEST_WORDS, AeTitle, Base, Uid, Words
from db.tables.keeping import Backup, Removal, RemovedStudy
from db.tables.learning import PatientPart, Snapshot, TrainingRun, Verdict
from db.tables.networks import NetworkChange, NetworkVersion
from db.tables.people import Account, ApiToken, Audit, OneTimeLink, WebSession
from db.tables.results import Commitment, CommitmentRequest, Delivery, Finding, Report, ReportObject
from db.tables.states import (
    AccountRole,
    DeliveryState,
    JobState,
    NetworkState,
    ObjectKind,
    Part,
    Role,
    RunState,
    StudyState,
)
from db.tables.studies import Instance, Series, Study, Variant
from db.tables.watch import Alert, ConstancyRecord, ConstancyRun, DriftHold, DriftReference, LedgerDay
from db.tables.work import Circuit, Job

__all__ = [
    "LONGEST_WORDS",
    "Account",
    "AccountRole",
    "AeTitle",
    "Alert",
    "ApiToken",
    "Audit",
    "Backup",
    "Base",
    "Circuit",
    "Commitment",
    "CommitmentRequest",
    "ConstancyRecord",
    "ConstancyRun",
    "Delivery",
    "DeliveryState",
    "DriftHold",
    "DriftReference",
    "Finding",
    "Instance",
    "Job",
    "JobState",
    "LedgerDay",
    "NetworkChange",
    "NetworkState",
    "NetworkVersion",
    "ObjectKind",
    "OneTimeLink",
    "Part",
    "PatientPart",
    "Removal",
    "RemovedStudy",
    "Report",
    "ReportObject",
    "Role",
    "RunState",
    "Series",
    "Snapshot",
    "Study",
    "StudyState",
    "TrainingRun",
    "Uid",
    "Variant",
    "Verdict",
    "WebSession",
    "Words",
]
