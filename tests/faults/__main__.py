"""`python -m tests.faults`: run the rig; with `--control`, the same kills against plain Celery.

FAULTS_STUDIES says how many studies are sent at least, FAULTS_SEED in which order faults come, and
FAULTS_DATABASE (sqlite or postgresql) on which database. `--table FILE.md` writes what was found into a
document, too.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from rich.console import Console

from tests.faults import control
from tests.faults.faults import Scene
from tests.faults.ledger import Ledger
from tests.faults.rig import Rig, progress
from tests.faults.senders import Drawer, Senders
from tests.faults.site import Site
from tests.faults.table import WIDTH, Findings

STORE_MB, STORE_MB_PER_STUDY = 200, 10


def main() -> int:
    """Return 0 when nothing was lost or doubled and each recovery was quick enough; after a control, too."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--control", action="store_true", help="kill plain Celery instead")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write the table into this document")
    asked = parser.parse_args()
    studies = int(os.environ.get("FAULTS_STUDIES") or 200)
    seed = os.environ.get("FAULTS_SEED") or "1"
    database = os.environ.get("FAULTS_DATABASE") or "sqlite"
    document = asked.table.resolve() if asked.table else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started is stopped
    folder = Path(tempfile.mkdtemp(prefix="hilum-faults-"))
    what = "plain Celery" if asked.control else database
    progress.print(f"seed {seed}, {studies} studies, {what}, in {folder}")
    findings = Findings(f"{what}, seed {seed}", "")
    began_at = time.monotonic()
    as_it_should = False
    try:
        if asked.control:
            as_it_should = control.run(folder, Random(seed), studies, findings)
        else:
            as_it_should = _run(folder, Random(seed), studies, database, findings)
    finally:
        if not as_it_should:
            progress.print(
                f"not as it should be: logs, database, store and all that was sent stay in {folder}"
            )
    minutes = (time.monotonic() - began_at) / 60
    machine = f"{os.cpu_count()} processors, {minutes:.0f} minutes"
    findings.run = f"Seed {seed}, {studies} studies asked for, {what}, {machine}."
    findings.print_to(Console(width=WIDTH, highlight=False))
    if document:
        findings.write_into(document)
    if as_it_should:
        shutil.rmtree(folder)
    return 0 if as_it_should else 1


def _run(folder: Path, rng: Random, studies: int, database: str, findings: Findings) -> bool:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # associations that end badly are our trade
    ledger, drawer = Ledger(), Drawer(folder / "sent", rng)
    site = Site(folder, rng, database=database, store_mb=STORE_MB + STORE_MB_PER_STUDY * studies)
    as_it_should = False
    try:
        site.start()
        senders = Senders(ledger.acknowledge, ledger.begin)
        as_it_should = Rig(Scene(site, drawer, senders, ledger, rng), studies).run(findings)
    finally:
        if not as_it_should:
            site.keep_database()
        site.stop()
    return as_it_should


if __name__ == "__main__":
    sys.exit(main())
