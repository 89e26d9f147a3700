"""`hilum doctor`: what is wrong on this machine, and what to do about it."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from console import scu
from console.constancy import last_said
from console.disk import disk
from console.exposure import exposures, risks
from console.ledger import latest
from console.overview import broker_depths, unheard
from console.tables import counted
from db import networks, schema, trouble
from db.session import transaction
from hilum import tls
from hilum.engine import choose_engine
from hilum.errors import NetworkError, PacsUnavailable, SettingsError, StoreFull
from hilum.network import load_artefact
from hilum.pacs import Peer, Rejected
from hilum.radiograph import decodable_transfer_syntaxes
from hilum.settings import Destination, Sender, Settings, config_file, settings
from hilum.store import Store

_RENEW_DAYS = 30


SOON_DAYS = 14
"""A disk that fills up within these needs somebody now: disks take their time to be bought."""


@dataclass(frozen=True)
class Check:
    """One thing looked at; `remedy` is what to do, empty when nothing is wrong."""

    name: str
    found: str
    remedy: str = ""
    is_risk: bool = False
    """Whether it stands open to others, and only who knows the place can say whether it may."""


def examine() -> Iterator[Check]:
    """Yield what each check finds; after a broken configuration nothing else can be looked at."""
    try:
        ours = settings()
    except SettingsError as error:
        yield Check("configuration", str(error), "correct it; docs/configuration.md lists every setting")
        return
    yield Check("configuration", f"{config_file() or 'no hilum.toml: defaults'}")
    for found, remedy in exposures(ours):
        yield Check("exposure", found, remedy)
    for found in risks(ours):
        yield Check("exposure", found, is_risk=True)
    for check in (_database, _broker, _workers, _store, _decoders, _network):
        yield check(ours)
    yield from _lost(ours)
    yield from _missing(ours)
    yield from _certificates(ours)
    yield from _listener(ours)
    yield from _constancy(ours)
    for place in ours.destinations:
        yield _destination(ours, place)
    if not ours.destinations:
        yield Check("destinations", "none: results stay in the database")
    for sender in ours.sources:
        yield _source(ours, sender)


def _database(ours: Settings) -> Check:
    if not _is_made(ours):
        return Check("database", f"{_kind(ours.database)}, not made yet: `hilum up` makes it")
    try:
        if schema.is_current(ours.database):
            return Check("database", f"{_kind(ours.database)}, tables up to date")
    except (DBAPIError, OSError) as error:
        remedy = "start it, or correct database_url"
        return Check("database", f"{_kind(ours.database)} does not answer: {_first_line(error)}", remedy)
    return Check("database", f"{_kind(ours.database)}, tables missing or old", "run `hilum database upgrade`")


def _is_made(ours: Settings) -> bool:
    """Whether there is a database; with SQLite, to look into one that is not there would make it."""
    return bool(ours.database_url) or Path(str(make_url(ours.database).database)).exists()


def _broker(ours: Settings) -> Check:
    if broker_depths() is not None:
        return Check("broker", "answers")
    if not ours.broker_url:
        return Check("broker", "embedded, not running now: `hilum up` starts it")
    return Check("broker", "does not answer", "start it, or correct broker_url")


def _workers(ours: Settings) -> Check:
    if broker_depths() is None:
        return Check("workers", "not asked: the broker does not answer")
    silent = unheard()
    if not silent:
        return Check("workers", "every queue has a worker that answers")
    remedy = "start the workers (`hilum up` starts all), or look why they do not answer"
    return Check("workers", f"nobody who answers takes from {', '.join(silent)}", remedy)


def _store(ours: Settings) -> Check:
    store = Store(ours.store)
    try:
        probe = store.aside / f"doctor-{os.getpid()}"
        probe.write_bytes(b"?")
        probe.rename(store.root / probe.name).unlink()  # fails between two file systems
        store.require_free(ours.least_free_mb)
    except StoreFull as error:
        return Check(
            "file store", str(error), "make room, or lower refuse_below_mb: senders are kept out now"
        )
    except OSError as error:
        remedy = "make the folder writable, on one file system, or set store_dir"
        return Check("file store", f"{store.root}: {error}", remedy)
    return _room(ours) if _is_made(ours) else Check("file store", f"{store.root}, empty")


def _room(ours: Settings) -> Check:
    """How full the store's disk is, and whether it soon keeps senders out."""
    try:
        with transaction() as session:
            found = disk(session, ours)
    except DBAPIError:
        return Check("file store", f"{ours.store}; the database does not say how fast it fills")
    is_soon = found.days_left is not None and found.days_left < SOON_DAYS
    remedy = "make room, add a disk, or have old files removed (keep_files_days)" if is_soon else ""
    return Check("file store", f"{ours.store}, {found.words()}", remedy)


def _lost(ours: Settings) -> Iterator[Check]:
    """Received files that no row names, which retention has put out of the way."""
    store = Store(ours.store)
    if count := store.lost_files():
        remedy = f"`hilum send {store.lost}`, which changes nothing that is known; then remove that folder"
        yield Check("lost files", f"{count} received files had no row, and lie in {store.lost}", remedy)


def _missing(ours: Settings) -> Iterator[Check]:
    """Images whose files are not there, though nobody removed them."""
    if not _is_made(ours):
        return
    try:
        with transaction() as session:
            count, some = trouble.lost_images(session)
    except DBAPIError:
        return  # which the check of the database tells
    if count:
        found = f"the files of {counted(count, 'image', 'images')} are missing: of study {', '.join(some)}"
        yield Check("missing files", found, "have them sent again: that heals it (docs/operations.md)")


def _decoders(ours: Settings) -> Check:
    able = set(decodable_transfer_syntaxes())
    with as_file(files("hilum") / "samples") as folder:
        known = {
            UID(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
            for path in folder.glob("*.dcm")
        }
    unable = ", ".join(sorted(uid.name for uid in known - able))
    if unable:
        remedy = "install Hilum anew, with its decoders; images in these are refused"
        return Check("decoders", f"cannot decode {unable}", remedy)
    return Check("decoders", f"{len(able)} transfer syntaxes")


def _network(ours: Settings) -> Check:
    try:
        artefact = load_artefact(networks.in_use())
        engine = choose_engine(artefact, ours.device, ours.precision)
    except (NetworkError, OSError) as error:
        return Check(
            "network",
            str(error),
            "correct network_dir, device and precision, or have another read: `hilum networks`",
        )
    what = f"{artefact.version}, digest {artefact.digest[:12]}"
    return Check("network", f"{what}; {engine.name} {engine.precision} on {engine.device}")


def _certificates(ours: Settings) -> Iterator[Check]:
    for name in ("tls_certificate", "tls_ca"):
        file: Path | None = getattr(ours, name)
        if file is not None:
            yield _certificate(name, file)


def _certificate(name: str, file: Path) -> Check:
    try:
        end = min(tls.ends(file))
    except (OSError, ValueError) as error:
        return Check(name, f"{file}: {error}", f"correct {name}: calls by TLS fail")
    days = (end - datetime.now(UTC)) // timedelta(days=1)
    if days < 0:
        return Check(name, f"{file} ended on {end:%Y-%m-%d}", "renew it: calls by TLS fail")
    if days < _RENEW_DAYS:
        return Check(name, f"{file} ends on {end:%Y-%m-%d}, in {days} days", "renew it; no restart is needed")
    return Check(name, f"{file} is good until {end:%Y-%m-%d}")


def _listener(ours: Settings) -> Iterator[Check]:
    calling = ours.senders[0].ae_title if ours.senders else "HILUM-DOCTOR"
    yield _answers(ours, "listener", scu.listener(ours, calling))
    if ours.listener_tls_port not in (None, ours.listener_port):
        yield _answers(ours, "listener by TLS", scu.listener(ours, calling, tls=True))


def _answers(ours: Settings, name: str, peer: Peer) -> Check:
    if not _is_taken(peer.host, peer.port):
        return Check(name, f"port {peer.port} is free: `hilum up` will listen there")
    try:
        tls.arguments(peer.host, peer.secured)
        scu.echo(peer)
    except SettingsError as error:
        return Check(name, str(error), "correct the files: calls by TLS fail")
    except PacsUnavailable as error:
        remedy = "if it is not Hilum that listens there, stop it or choose another listener_port"
        excused = isinstance(error, Rejected) and ours.senders  # we are no sender, or call from elsewhere
        return Check(name, str(error), "" if excused else remedy)
    return Check(name, f"{peer} answers C-ECHO")


def _constancy(ours: Settings) -> Iterator[Check]:
    """How the phantoms of the day came back, where there are to be some."""
    if ours.constancy_hour is None or not _is_made(ours):
        return
    try:
        with transaction() as session:
            yield Check("constancy", *last_said(session))
    except DBAPIError as error:
        yield Check("constancy", f"not known: {_first_line(error)}")


def _destination(ours: Settings, place: Destination) -> Check:
    peer = replace(Peer.of(place, ours), name="")  # the check has it
    name = f"destination {place.name}"
    try:
        scu.echo(peer)
        if place.final_when != "commitment":
            return Check(name, f"{peer} answers C-ECHO")
        if scu.commits(peer):
            return Check(name, f"{peer} answers C-ECHO and takes requests for storage commitment")
    except PacsUnavailable as error:
        remedy = f"check host, port and ae_title, and that it knows {ours.listener_ae_title} at this address"
        return Check(name, str(error), remedy)
    remedy = "set its final_when to c-find or success, or have it allow storage commitment"
    return Check(name, f"{peer} answers C-ECHO, but takes no requests for storage commitment", remedy)


def _source(ours: Settings, sender: Sender) -> Check:
    """What the ledger knows of a source, which is not asked here: that may take minutes."""
    name = f"ledger of {sender.ae_title}"
    if not _is_made(ours):
        return Check(name, "not counted yet")
    try:
        return Check(name, *latest(sender.ae_title))
    except DBAPIError as error:
        return Check(name, f"not known: {_first_line(error)}")


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def _kind(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]
