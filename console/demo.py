"""`hilum demo`: the whole way on one machine, from a sender to a PACS, shown as it happens."""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from pathlib import Path

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from console import pacs, scu
from console.demo_site import DemoFailed, Site, configured, running, wait_until_ready
from console.scu import Outgoing, PassedOver, Unusable
from console.sending import Outcome, failures, progress, send_files
from console.tables import add, counted
from db import findings, jobs, reports, studies
from db.session import transaction
from db.tables import DeliveryState, Finding, Instance, Study, StudyState
from hilum.errors import PacsUnavailable
from hilum.phantom import LABELS, phantom

STALLED_AFTER_S = 120
"""Seconds without any progress after which the demo stops waiting."""

_LOOK_S = 0.3
_SYNTAXES = (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
)
_READ = (StudyState.READ, StudyState.REPORTED, StudyState.DELIVERED, StudyState.NOT_READ)
_ENDED = (StudyState.DELIVERED, StudyState.NOT_READ)
_MOST_LINES = 4
_SHORTEST_ID, _LONGEST_ID, _FINDING, _OTHER_COLUMNS = 8, 20, 12, 51  # columns of the terminal


def demo(places: Sequence[Path], *, count: int, keep_serving: bool, console: Console) -> bool:
    """Start everything, send studies, show what came back, and return whether nothing was lost.

    Without places, phantoms are sent. Raises DemoFailed when something does not start, or when the
    places hold nothing to send.
    """
    if places:
        _require_something(places)
    site = configured()
    folder = f"[bold]{escape(str(site.folder))}[/]"
    console.print(f"Hilum runs in {folder}, its log is {site.log.name} there", soft_wrap=True)
    with running(site, console):
        with tempfile.TemporaryDirectory(prefix="hilum-demo-") as name, progress(console) as bars:
            outcome, files = _gather(places, count, Path(name), bars)
            wait_until_ready(site, bars)
            watch = _send_and_watch(files, outcome, site, bars)
        results = [watch.result(study_uid) for study_uid in outcome.study_uids]
        _show(results, outcome, console)
        if keep_serving:
            console.print(_invitation(site), soft_wrap=True)
        console.print(summary(results, outcome), highlight=False, soft_wrap=True)
        if keep_serving:
            _serve(site)
    return bool(results) and not outcome.failed and not any(each.is_lost for each in results)


def phantoms(count: int, folder: Path) -> Iterator[Outgoing | Unusable]:
    """Draw phantoms, each a new study: every label, in the syntaxes and polarities that hospitals use."""
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))
    try:
        with _ctrl_c_held_up():  # for its processes for ever: this one ends them
            drawn = pool.map(_draw, range(count), [folder] * count)
        for path in drawn:
            yield scu.described(path)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_held_up() -> Iterator[None]:
    resource_tracker.ensure_running()  # else it starts with the first process, and lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _draw(number: int, folder: Path) -> Path:
    ds = phantom(
        number + 1,
        LABELS[number % len(LABELS)],
        transfer_syntax_uid=UID(_SYNTAXES[number % len(_SYNTAXES)]),
        photometric_interpretation=f"MONOCHROME{1 + number // 2 % 2}",
        view_position="AP" if number % 3 == 2 else "PA",
        study_uid=generate_uid(prefix=None),
    )
    path = folder / f"phantom-{number + 1}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def _gather(
    places: Sequence[Path], count: int, folder: Path, bars: Progress
) -> tuple[Outcome, list[Outgoing]]:
    """Note what cannot be sent, and return the files that can."""
    gathering = scu.find(places, wrapped_in=folder) if places else phantoms(count, folder)
    task = bars.add_task("found" if places else "drawn", total=None if places else count, rate="")
    outcome = Outcome()
    files = outcome.sendable(bars.track(gathering, task_id=task))
    bars.update(task, total=bars.tasks[task].completed)
    return outcome, files


def _require_something(places: Sequence[Path]) -> None:
    """Raise DemoFailed, which says why each file is no use, when nothing in these places can be sent."""
    useless: list[Unusable | PassedOver] = []
    with tempfile.TemporaryDirectory(prefix="hilum-demo-") as name:
        for each in scu.find(places, wrapped_in=Path(name)):
            if isinstance(each, Outgoing):
                return
            useless.append(each)
    lines = [f"there is nothing to send in {', '.join(map(str, places))}: {_because(len(useless))}"]
    lines += [f"{each.source}: {each.because}" for each in useless[:_MOST_LINES]]
    raise DemoFailed("\n".join([*lines, *["..."] * (len(useless) > _MOST_LINES)]))


def _because(useless: int) -> str:
    return f"{counted(useless, 'file', 'files')}, of no use" if useless else "no file at all"


@dataclass(frozen=True)
class Result:
    """What became of one study that was sent.

    `seconds` go, by the database's clock, from the arrival of the last image to the moment at which the
    PACS was known, by C-FIND, to have every object of the newest report; None when that is not so.
    """

    study: Study
    has_findings: bool
    lines: list[tuple[str, str, str]]
    """(view, finding, probabilities) of its images."""
    seconds: float | None
    expected: set[str]
    """SOP Instance UIDs of the newest report's objects."""
    found: set[str]
    """Those of them that the PACS has."""

    @property
    def is_read(self) -> bool:
        return self.study.state in _READ and self.has_findings

    @property
    def is_not_assessed(self) -> bool:
        """Whether Hilum has come to its end with it, and says of no image what it shows."""
        return self.study.state in _READ and not self.has_findings

    @property
    def is_lost(self) -> bool:
        return self.study.state not in _ENDED or self.found != self.expected


class Watch:
    """How far the studies sent have come, in our database and at the PACS."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._states: dict[str, StudyState] = {}
        self._at_the_pacs: dict[str, set[str]] = {}

    def look(self, study_uids: Sequence[str]) -> tuple[int, int]:
        """How many of these studies have been read, and how many have come to their end."""
        with transaction() as session:
            open_ones = [uid for uid in study_uids if self._states.get(uid) not in _ENDED]
            self._states |= studies.states(session, open_ones)
        for study_uid, state in self._states.items():
            if state == StudyState.DELIVERED and study_uid not in self._at_the_pacs:
                with suppress(PacsUnavailable):
                    self._at_the_pacs[study_uid] = scu.found(self._site.pacs, study_uid)
        not_read = sum(state == StudyState.NOT_READ for state in self._states.values())
        return sum(state in _READ for state in self._states.values()), len(self._at_the_pacs) + not_read

    def result(self, study_uid: str) -> Result:
        """What became of a study."""
        with transaction() as session:
            study = session.get_one(Study, study_uid)
            images = studies.images(session, study_uid)
            said = findings.of_study(session, study_uid)
            report = reports.latest(session, study_uid)
            expected = {each.uid for each in report.objects} if report else set()
            sent = [each for each in reports.deliveries(session, study_uid) if report is each.report]
            errors = [job.error for job in jobs.of_study(session, study_uid) if job.error]
        lines = [_line(image, said.get(image.uid)) for image in images]
        if errors:
            lines.append(("", errors[-1], ""))
        final_at = [each.final_at for each in sent if each.final_at and each.state == DeliveryState.FINAL]
        seconds = (max(final_at) - study.last_received_at).total_seconds() if final_at else None
        found = self._at_the_pacs.get(study_uid, set()) & expected
        has_findings = any(each.not_assessed_because is None for each in said.values())
        return Result(study, has_findings, list(dict.fromkeys(lines)), seconds, expected, found)


def _line(image: Instance, finding: Finding | None) -> tuple[str, str, str]:
    because = findings.why_not_assessed(image, finding)
    if because or finding is None:
        return image.view, f"not assessed: {because or 'not read yet'}", ""
    return image.view, finding.label, " ".join(short(finding.probabilities[label]) for label in LABELS)


def short(share: float) -> str:
    """Return a share, 0 to 1, in three characters: ".05", and "1.0" from where it would round to 1."""
    return f"{share:.2f}".removeprefix("0")[:3]


def _send_and_watch(files: Sequence[Outgoing], outcome: Outcome, site: Site, bars: Progress) -> Watch:
    """Send, and return when the results of every study are at the PACS, or nothing moves any more."""
    watch = Watch(site)
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(send_files, files, site.listener, bars, outcome)
        total = len({each.study_uid for each in files})
        read = bars.add_task("read", total=total, rate="")
        back = bars.add_task("back in the PACS", total=total, rate="")
        before, moved_at = (0, 0), time.monotonic()
        while not _is_over(sending, outcome, before) and time.monotonic() - moved_at < STALLED_AFTER_S:
            site.require_alive()
            time.sleep(_LOOK_S)
            now = watch.look(outcome.study_uids)
            if now != before or not sending.done():
                before, moved_at = now, time.monotonic()
            total = len(outcome.study_uids) if sending.done() else total
            bars.update(read, completed=now[0], total=total)
            bars.update(back, completed=now[1], total=total)
        sending.result()
    return watch


def _is_over(sending: Future[None], outcome: Outcome, reached: tuple[int, int]) -> bool:
    return sending.done() and reached[1] == len(outcome.study_uids)


def _show(results: Sequence[Result], outcome: Outcome, console: Console) -> None:
    table = Table(title="What came back", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # the patient's column gives way in a narrow window: without a least width, rich empties those that wrap
    longest_id = max(_SHORTEST_ID, min(_LONGEST_ID, console.width - _OTHER_COLUMNS))
    table.add_column("patient", no_wrap=True, max_width=longest_id)
    table.add_column("view", no_wrap=True)
    table.add_column("finding", min_width=_FINDING)
    table.add_column(" ".join(label[:3] for label in LABELS), no_wrap=True)
    for header in ("s", "PACS"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in results:
        seconds = "" if each.seconds is None else f"{each.seconds:.1f}"
        objects = f"{len(each.found)}/{len(each.expected)}"
        style = "red" if each.is_lost else None
        first, *more = each.lines[:_MOST_LINES] or [("", "", "")]
        add(table, each.study.patient_id, *first, seconds, objects, style=style)
        for line in more:
            add(table, "", *line, "", "", style=style)
    console.print(table)
    if outcome.failed:
        console.print(failures(outcome.failed))
    if outcome.passed_over:
        console.print(f"{counted(outcome.passed_over, 'other file', 'other files')} passed over")


def summary(results: Sequence[Result], outcome: Outcome) -> str:
    """The demo's last line; what did not happen has no word in it but the studies lost."""
    read = sum(each.is_read for each in results)
    not_assessed = sum(each.is_not_assessed for each in results)
    objects = sum(len(each.found) for each in results)
    lost = sum(each.is_lost for each in results)
    counts = [
        f"{counted(len(results), 'study', 'studies')} sent",
        f"{read} read",
        *[f"{not_assessed} not assessed"] * bool(not_assessed),
        f"{counted(objects, 'object', 'objects')} in the PACS",
        f"{lost} lost",
        *[f"{counted(len(outcome.failed), 'file', 'files')} not sent"] * bool(outcome.failed),
    ]
    seconds = [each.seconds for each in results if each.seconds is not None]
    median = f"{statistics.median(seconds):.1f} s" if seconds else "- s"
    return f"demo: {', '.join(counts)}, median {median} from last image to result"


def _invitation(site: Site) -> str:
    listener = site.listener
    lines = [
        f"\nHilum goes on serving as {listener}; Ctrl-C stops it.",
        f"In another terminal: [bold]{escape(f'HILUM_CONFIG={site.configuration} {sys.argv[0]}')} status[/]",
    ]
    if pacs.is_orthanc():
        lines.append(f"The PACS in a browser: http://127.0.0.1:{site.browser_port}")
    return "\n".join([*lines, ""])


def _serve(site: Site) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            site.require_alive()
            time.sleep(1)
