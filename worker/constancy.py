"""Constancy: phantoms go through the whole chain, as a modality's images do, and must come back as ever."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydicom import FileDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import build_context
from sqlalchemy.orm import Session

from db import alerts, constancy, findings, jobs, reports, studies
from db.jobs import Claim
from db.session import transaction
from db.tables import ConstancyRun, StudyState
from db.work import Bell, work_on
from hilum import pacs
from hilum.errors import PacsUnavailable
from hilum.pacs import Peer
from hilum.phantom import DRAWING, phantom
from hilum.queue import CONSTANCY, app
from hilum.settings import Settings, settings

log = logging.getLogger(__name__)

BACK_WITHIN_S = 1800
"""Seconds after which phantoms that are not back, in the PACS, are an alert."""
LOOK_S = 5
"""Seconds between two looks whether they are."""
ROWS, COLUMNS = 800, 656

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Shot:
    """One phantom of the set, the same pixels each time."""

    seed: int
    label: str
    view: str
    transfer_syntax_uid: UID
    photometric_interpretation: str

    @property
    def name(self) -> str:
        """What people call it; another drawing is another phantom."""
        return f"{self.label} {self.seed}, drawing {DRAWING}"

    def drawn(self, study_uid: str) -> FileDataset:
        return phantom(
            self.seed,
            self.label,
            transfer_syntax_uid=self.transfer_syntax_uid,
            photometric_interpretation=self.photometric_interpretation,
            rows=ROWS,
            columns=COLUMNS,
            study_uid=study_uid,
            view_position=self.view,
        )


SHOTS = (
    Shot(1, "Normal", "PA", ExplicitVRLittleEndian, "MONOCHROME2"),
    Shot(2, "Pneumonia", "AP", JPEG2000Lossless, "MONOCHROME1"),
    Shot(3, "COVID-19", "PA", JPEGLSLossless, "MONOCHROME2"),
    Shot(4, "Other", "PA", RLELossless, "MONOCHROME1"),
)
"""Every label, decoder and polarity once."""


@dataclass(frozen=True)
class Tolerance:
    """By how much numbers may differ from what was recorded."""

    probability: float
    ood: float
    heat: float
    """On average over the map."""


SAME = Tolerance(probability=0.01, ood=0.02, heat=0.02)
"""Of the same network and engine: a batch's size changes the order of its sums, and nothing else does."""
ANOTHER_ENGINE = Tolerance(probability=0.05, ood=0.1, heat=0.1)
"""Of the same network, where it computes in another precision or on another machine for the first time."""


@app.task(name=CONSTANCY)
def check_constancy(slot: str) -> None:
    """Send the phantoms; at a later look, compare what came of them with what was recorded."""
    work_on(CONSTANCY, slot, _step)


def _step(claim: Claim) -> Sequence[Bell]:
    slot, ours = claim.subject, settings()
    with transaction() as session:
        fresh = {shot.name: str(generate_uid(prefix=None)) for shot in SHOTS}
        run = constancy.begin(session, slot, fresh)
        lacking = None if run.sent_at is None else _lacking(session, run, ours)
        is_overdue = constancy.is_overdue(session, slot, after_s=BACK_WITHIN_S)
    if run.ended_at is not None:
        return _over(claim)
    if lacking is None:
        lacking = _send(run, ours)
    if not lacking:
        with transaction() as session:
            return _judged(session, claim, run)
    if is_overdue:
        with transaction() as session:
            return _failed(session, claim, run, lacking)
    with transaction() as session:
        jobs.put_off(session, claim, pause_s=LOOK_S, because=lacking)
    return []


def _over(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        jobs.finish(session, claim)
    return []


def _send(run: ConstancyRun, ours: Settings) -> str:
    """Send the phantoms by C-STORE to our own listener; return, in words, why they are not back yet."""
    peer = _listener(ours)
    try:
        for shot in SHOTS:
            if shot.name in run.studies:
                _store(peer, shot, run.studies[shot.name])
    except PacsUnavailable as error:
        return f"the phantoms cannot be sent: {error}"
    with transaction() as session:
        constancy.note_sent(session, run.slot)
    return "the phantoms have just been sent"


def _listener(ours: Settings) -> Peer:
    rule = ours.sender(ours.constancy_ae_title)
    return pacs.listener(
        ours,
        ours.constancy_ae_title,
        called=(rule.called_ae_title or "") if rule else "",
        tls=rule is not None and bool(rule.tls or rule.certificate_sha256),
        host=ours.constancy_host,
    )


def _store(peer: Peer, shot: Shot, study_uid: str) -> None:
    context = build_context(DigitalXRayImageStorageForPresentation, shot.transfer_syntax_uid)
    with TemporaryDirectory(prefix="hilum-") as folder:
        file = Path(folder) / "phantom.dcm"
        shot.drawn(study_uid).save_as(file, enforce_file_format=True)
        assoc = pacs.associate(peer, [context])
        try:
            status = assoc.send_c_store(file)
        except (RuntimeError, ValueError) as error:  # it ended meanwhile, or accepts no such object
            raise PacsUnavailable(f"{peer}: {error}") from error
        finally:
            assoc.release()
    if not status or not pacs.is_stored(status.Status):
        said = f"0x{status.Status:04X} {status.get('ErrorComment', '')}" if status else "no answer"
        raise PacsUnavailable(f"{peer} did not take a phantom: {said}")


def _lacking(session: Session, run: ConstancyRun, ours: Settings) -> str:
    """Which phantoms are not back where they are to come, in words; empty when all are."""
    goes_on = bool(ours.destinations_of(ours.constancy_ae_title))
    wanted = StudyState.DELIVERED if goes_on else StudyState.REPORTED
    states = studies.states(session, list(run.studies.values()))
    late = [
        f"{name}: {_where(session, study_uid, states.get(study_uid))}"
        for name, study_uid in run.studies.items()
        if states.get(study_uid) not in (wanted, StudyState.DELIVERED)
    ]
    return f"{len(late)} of {len(run.studies)} phantoms are not back: {'; '.join(late)}" if late else ""


def _where(session: Session, study_uid: str, state: StudyState | None) -> str:
    """How far it has come, and what holds it up."""
    if state is None:
        return "not received"
    errors = [each.error for each in jobs.of_study(session, study_uid) if each.error]
    errors += [each.error for each in reports.deliveries(session, study_uid) if each.error]
    return f"{state}, {errors[-1]}" if errors else state.value


def _judged(session: Session, claim: Claim, run: ConstancyRun) -> Sequence[Bell]:
    """Compare what was found with what was recorded, and record what never was."""
    found = {name: _found(session, study_uid) for name, study_uid in run.studies.items()}
    wrong = [f"{name}: {each}" for name in found for each in _compared(session, name, found[name])]
    if wrong:
        return _failed(session, claim, run, "; ".join(wrong), found)
    new = [name for name, each in found.items() if _is_new(session, name, each)]
    for name in new:
        constancy.record(session, found[name]["network"], found[name]["engine"], name, found[name])
    words = f"recorded for the first time: {'; '.join(new)}" if new else ""
    constancy.end(session, run.slot, passed=True, words=words, found=found)
    alerts.end(session, constancy.KIND, constancy.SUBJECT)
    jobs.finish(session, claim)
    log.info("constancy of %s: all %d phantoms are as ever", run.slot, len(found))
    return []


def _failed(
    session: Session, claim: Claim, run: ConstancyRun, words: str, found: Found | None = None
) -> Sequence[Bell]:
    constancy.end(session, run.slot, passed=False, words=words, found=found or {})
    alerts.note(session, constancy.KIND, constancy.SUBJECT, f"{run.slot}: {words}")
    jobs.finish(session, claim)
    return []


def _found(session: Session, study_uid: str) -> dict[str, Any]:
    """What the database says of a phantom's image."""
    [image] = studies.images(session, study_uid)
    finding = findings.of_study(session, study_uid).get(image.uid)
    because = findings.why_not_assessed(image, finding)
    if finding is None:
        return {"not_assessed_because": because}
    return {
        "network": finding.network_digest,
        "engine": finding.engine,
        "label": finding.label,
        "probabilities": finding.probabilities,
        "ood": finding.ood,
        "heat": finding.heat.get("rows", []),
        "not_assessed_because": because,
    }


def _is_new(session: Session, name: str, found: Found) -> bool:
    return found["engine"] not in constancy.records(session, found["network"], name)


def _compared(session: Session, name: str, found: Found) -> Iterator[str]:
    """What is otherwise than recorded, of this engine or, where it is new, of another one."""
    if "network" not in found:
        yield f"no network has read it: {found['not_assessed_because']}"
        return
    recorded = constancy.records(session, found["network"], name)
    if found["engine"] in recorded:
        yield from differences(recorded[found["engine"]], found, SAME)
    elif recorded:
        engine, other = next(iter(recorded.items()))
        for each in differences(other, found, ANOTHER_ENGINE):
            yield f"{found['engine']} finds otherwise than {engine}: {each}"


def differences(recorded: Found, found: Found, within: Tolerance) -> Iterator[str]:
    """In words, what is otherwise than recorded."""
    for name in ("label", "not_assessed_because"):
        if found[name] != recorded[name]:
            yield f"{name.replace('_', ' ')} {found[name]!r} instead of {recorded[name]!r}"
    for label, was in recorded["probabilities"].items():
        now = found["probabilities"].get(label, 0.0)
        if not abs(now - was) <= within.probability:
            yield f"probability of {label} {now:.3f} instead of {was:.3f}"
    if not abs(found["ood"] - recorded["ood"]) <= within.ood:
        yield f"strangeness {found['ood']:.3f} instead of {recorded['ood']:.3f}"
    if not _step_between(recorded["heat"], found["heat"]) <= within.heat:
        yield "another heat map"


def _step_between(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The mean difference of two heat maps; 1 when only one of them is there."""
    if np.shape(one) != np.shape(other):
        return 1.0
    return float(np.abs(np.subtract(one, other)).mean()) if np.size(one) else 0.0
