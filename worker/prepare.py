"""Prepare: decide which images may be read, and make the network's input and a display image of those."""

import logging
import os
from collections.abc import Sequence
from functools import cache

from sqlalchemy.orm import Session

from db import jobs, retention, studies, verdicts
from db.jobs import Claim
from db.session import transaction
from db.studies import FILE_LOST, Preparation
from db.tables import Instance, StudyState
from db.work import Bell, work_on
from hilum.eligibility import RADIOGRAPHS
from hilum.errors import MachineAtFault, Undecodable
from hilum.queue import CLASSIFY, PREPARE, REPORT, VERDICT, app
from hilum.settings import settings
from hilum.store import DISPLAY_FILE, INPUT_FILE, PREPARED, Store
from worker.decoder import Decoder

log = logging.getLogger(__name__)


@app.task(name=PREPARE)
def prepare_study(study_uid: str) -> None:
    """Prepare the images of a study that are not prepared yet, and pass it on to be read or reported.

    A study without any CR or DX image ends here: it is recorded and gets no report.
    """
    work_on(PREPARE, study_uid, _prepare)


def _prepare(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        images = [each for each in studies.images(session, claim.subject) if _is_to_be_prepared(each)]
        retention.spare(session, [_folder_name(each) for each in images])
    done = [_prepared(image) for image in images]
    with transaction() as session:
        jobs.lock_study(session, claim.subject)
        _require_still_lost(session, done)
        _require_still_there(session, done)
        studies.save_preparations(session, done)
        bells = [Bell(VERDICT, uid) for uid in verdicts.hear_again(session, claim.subject)]
        kind = _next([image for image in studies.images(session, claim.subject) if image.prepared])
        if kind is None:
            studies.reach(session, claim.subject, StudyState.NOT_READ)
        else:
            studies.reach(session, claim.subject, StudyState.PREPARED)
            jobs.want(session, kind, claim.subject, study_uid=claim.study_uid, urgent=claim.urgent)
            bells.append(Bell(kind, claim.subject, claim.urgent))
        if jobs.finish(session, claim):
            bells.append(Bell(PREPARE, claim.subject, claim.urgent))
    _remove_folders(done)  # only now: one who has lost the lease must not remove what another prepared
    return bells


def _is_to_be_prepared(image: Instance) -> bool:
    """Whether it is not, or was lost then, and its file was not removed because of its age."""
    return image.removed_at is None and (not image.prepared or image.not_assessed_because == FILE_LOST)


def _require_still_there(session: Session, done: Sequence[Preparation]) -> None:
    """Raise OSError when what a crash had left there was taken away, and with it what we prepared."""
    store, folders = Store(settings().store), [each.prepared_path for each in done if each.prepared_path]
    retention.spare(session, folders)
    for folder in folders:
        store.require(f"{folder}/{DISPLAY_FILE}")
        store.require(f"{folder}/{INPUT_FILE}")


def _folder_name(image: Instance) -> str:
    return Store(settings().store).named(PREPARED, image.uid, suffix="")


def _prepared(image: Instance) -> Preparation:
    store = Store(settings().store)
    folder = store.folder(PREPARED, image.uid)
    try:
        result = decoder(os.getpid()).prepare(store.path(image.path), store.path(folder))
    except Undecodable as error:
        return Preparation(image.uid, image.view, not_assessed_because=str(error), broken=True)
    except FileNotFoundError:
        if not store.lacks(image.path):
            raise
        log.error("the file of %s is missing: %s", image.uid, store.path(image.path))
        return Preparation(image.uid, image.view, not_assessed_because=FILE_LOST, broken=True)
    if result.not_assessed_because is not None:
        return Preparation(
            image.uid,
            result.view,
            pixel_hash=result.pixel_hash,
            not_assessed_because=result.not_assessed_because,
        )
    return Preparation(image.uid, result.view, prepared_path=folder, pixel_hash=result.pixel_hash)


def _require_still_lost(session: Session, done: Sequence[Preparation]) -> None:
    """Raise MachineAtFault, to begin anew, when a lost file has come again meanwhile."""
    store = Store(settings().store)
    for each in done:
        if each.not_assessed_because != FILE_LOST:
            continue
        if not store.lacks(session.get_one(Instance, each.uid).path):
            raise MachineAtFault(f"the file of {each.uid} was missing, and has come again")


def _remove_folders(done: Sequence[Preparation]) -> None:
    """Remove what is left in the folders of images of which nothing is kept prepared."""
    store = Store(settings().store)
    for each in done:
        if not each.prepared_path:
            store.remove_folder(PREPARED, each.uid)


def _next(images: Sequence[Instance]) -> str | None:
    """What is to be done with a study of these prepared images; None when nothing is."""
    if any(image.prepared_path for image in images):
        return CLASSIFY
    return REPORT if any(image.sop_class_uid in RADIOGRAPHS for image in images) else None


@cache
def decoder(pid: int) -> Decoder:
    """The decoding process of this worker process."""
    return Decoder(timeout_s=settings().decode_timeout_s, memory_mb=settings().decode_memory_mb)
