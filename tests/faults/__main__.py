"""`python -m tests.faults`: run the rig.

FAULTS_STUDIES says how many studies are sent at least, FAULTS_SEED in which order faults come, and
FAULTS_DATABASE (sqlite or postgresql) on which database.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.faults.faults import Scene
from tests.faults.ledger import Ledger
from tests.faults.rig import Rig, console
from tests.faults.senders import Drawer, Senders
from tests.faults.site import Site

STORE_MB, STORE_MB_PER_STUDY = 200, 10


def main() -> int:
    """Return 0 when nothing was lost or doubled and each recovery was quick enough."""
    studies = int(os.environ.get("FAULTS_STUDIES") or 200)
    seed = os.environ.get("FAULTS_SEED") or "1"
    database = os.environ.get("FAULTS_DATABASE") or "sqlite"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # associations that end badly are our trade
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started is stopped
    folder = Path(tempfile.mkdtemp(prefix="hilum-faults-"))
    console.print(f"seed {seed}, {studies} studies, {database}, in {folder}")
    rng, ledger = Random(seed), Ledger()
    drawer = Drawer(folder / "sent", rng)
    site = Site(folder, rng, database=database, store_mb=STORE_MB + STORE_MB_PER_STUDY * studies)
    try:
        senders = Senders(ledger.acknowledge, ledger.begin)
        as_it_should = Rig(Scene(site, drawer, senders, ledger, rng), studies).run()
    finally:
        site.stop()
    if as_it_should:
        shutil.rmtree(folder)
    return 0 if as_it_should else 1


if __name__ == "__main__":
    sys.exit(main())
