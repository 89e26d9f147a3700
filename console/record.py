"""What the record says of studies, as tables for people."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pydicom.uid import UID
from rich.console import Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from console.tables import add, moment, plain, table
from db import findings, jobs, reports, studies, verdicts
from db.tables import Finding, Instance, Job, JobState, Study, Variant, Verdict
from db.verdicts import said_at


def studies_table(found: Sequence[Study]) -> Table:
    """A line per study."""
    made = _of_studies("received", "state", "patient id", "accession", "sender")
    for study in found:
        add(
            made,
            moment(study.last_received_at),
            ", ".join(_what_it_is(study)),
            study.patient_id,
            study.accession_number,
            study.sender_ae,
            study.study_uid,
        )
    return made


def held_table(found: Sequence[Study]) -> Table:
    """A line per study on legal hold, and why it is."""
    made = _of_studies("received", "patient id", "accession", "held because")
    for study in found:
        who = (moment(study.last_received_at), study.patient_id, study.accession_number)
        add(made, *who, study.held_because or "", study.study_uid)
    return made


def failed_table(found: Sequence[tuple[Study | None, Job]]) -> Table:
    """A line per piece of work that has failed or is quarantined, and why."""
    made = _of_studies("received", "patient id", "accession", "work", "error")
    for study, job in found:
        if study is None:
            work = f"{job.kind} {job.subject}, {job.state}"
            add(made, moment(job.created_at), "", "", work, job.error or "", "")
            continue
        who = (moment(study.last_received_at), study.patient_id, study.accession_number)
        add(made, *who, f"{job.kind}, {job.state}", job.error or "", study.study_uid)
    return made


def flagged_table(found: Sequence[tuple[Study, Variant]]) -> Table:
    """A line per object that came under a known UID, what was other about it, and its file in the store."""
    made = _of_studies("came", "patient id", "accession", "sender", "instance", "came with", "kept aside as")
    for study, variant in found:
        who = (moment(variant.received_at), study.patient_id, study.accession_number, variant.sender_ae)
        elsewhere = variant.study_uid != study.study_uid
        other = f"another study: {variant.study_uid}" if elsewhere else "other pixels"
        add(made, *who, variant.uid, other, variant.path, study.study_uid)
    return made


def study_report(session: Session, study: Study) -> Group:
    """Everything about one study: images, findings, verdicts, reports, deliveries, work."""
    uid = study.study_uid
    said = findings.of_study(session, uid)
    patient = plain(study.patient_id) or "no patient id"
    head = Text.assemble((f"{patient}  ", "bold"), f"{study.state}  {uid}")
    return Group(
        Rule(align="left", style="dim"),
        head,
        *(Text(plain(line)) for line in _how_it_is_kept(study)),
        _images(studies.images(session, uid), said),
        *_verdicts(verdicts.history(session, uid)),
        *(Text(plain(line)) for line in _unheard(studies.without_verdict(session, uid))),
        _reports(session, uid),
        _work(jobs.of_study(session, uid)),
    )


def verdicts_table(said: Sequence[Verdict]) -> Table:
    """All that was said, by image, the oldest first; what does not stand any more is dim."""
    superseded = {each.supersedes for each in said}
    made = table("Verdicts", ["label", "author", "said", "by", "stands", "comment", "instance"])
    of_image = defaultdict(list)
    for each in said:
        if each.id not in superseded:
            of_image[each.uid].append(each)
    for each in said:
        stands = each.id not in superseded
        disputed = "yes, disputed" if verdicts.disagree(of_image[each.uid]) else "yes"
        told = (each.label, each.author, moment(said_at(each)), each.source)
        style = None if stands else "dim"
        add(made, *told, disputed if stands else "superseded", each.comment, each.uid, style=style)
    return made


def _what_it_is(study: Study) -> Iterator[str]:
    yield study.state
    facts = {
        "urgent": study.urgent,
        "phantom": study.phantom,
        "held": study.held_because is not None,
        "files removed": study.files_removed_at is not None,
    }
    yield from (word for word, is_so in facts.items() if is_so)


def _how_it_is_kept(study: Study) -> Iterator[str]:
    if study.held_because is not None:
        yield f"on legal hold: {study.held_because}"
    if study.files_removed_at is not None:
        yield f"its files were removed on {moment(study.files_removed_at)} because of their age"


def _images(images: Sequence[Instance], said: dict[str, Finding]) -> Table:
    made = table("Images", ["kind", "view", "finding", "probabilities", "instance"])
    for image in images:
        finding = said.get(image.uid)
        add(made, _kind(image.sop_class_uid), image.view, *_said(image, finding), image.uid)
    return made


def _said(image: Instance, finding: Finding | None) -> tuple[str, str]:
    because = findings.why_not_assessed(image, finding)
    strangeness = f"strangeness {finding.ood:.2f}" if finding else ""
    if because:
        return f"not assessed: {because}", strangeness
    if finding is None:
        return "not read yet", ""
    ranked = sorted(finding.probabilities.items(), key=lambda item: -float(item[1]))
    shares = ", ".join(f"{label} {share:.2f}" for label, share in ranked)
    return finding.label, f"{shares}; {strangeness}"


def _unheard(objects: Sequence[Instance]) -> Iterator[str]:
    for each in objects:
        kind, because = _kind(each.sop_class_uid), each.no_verdict_because
        yield f"no verdict, or not all, from the {kind} {each.uid} of {each.sender_ae}: {because}"


def _verdicts(said: Sequence[Verdict]) -> list[Table]:
    return [verdicts_table(said)] if said else []


def _reports(session: Session, study_uid: str) -> Table:
    made = table("Reports", ["revision", "made", "objects", "deliveries"])
    sent = reports.deliveries(session, study_uid)
    for report in reports.of_study(session, study_uid):
        objects = "\n".join(f"{each.kind.upper()} {each.uid}" for each in report.objects)
        mine = [each for each in sent if each.report_id == report.id]
        deliveries = "\n".join(
            f"{each.destination}: {each.state}{f' ({each.error})' if each.error else ''}" for each in mine
        )
        add(made, str(report.revision), moment(report.created_at), objects, deliveries or "none")
    return made


def _work(work: Sequence[Job]) -> Table:
    made = table("Work", ["kind", "state", "due", "tries", "deaths", "error"])
    for job in work:
        style = "red" if job.state in (JobState.FAILED, JobState.QUARANTINED) else None
        at_work = job.state == JobState.WAITING and job.lease_token is not None
        add(
            made,
            job.kind,
            "at work" if at_work else job.state,
            moment(job.due_at),
            str(job.attempts),
            str(job.deaths),
            job.error or "",
            style=style,
        )
    return made


def _of_studies(*headers: str) -> Table:
    made = table("", headers)
    made.add_column("study", no_wrap=True)
    return made


def _kind(sop_class_uid: str) -> str:
    """Digital X-Ray, of Digital X-Ray Image Storage - For Presentation."""
    return UID(sop_class_uid).name.partition(" Storage")[0].removesuffix(" Image")
