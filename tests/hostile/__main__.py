"""`python -m tests.hostile --pdus 10000 --seed 1`: besiege the whole system.

Prints a table of all kinds of attack and one last line; the exit status is 0 when nothing broke.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from tests.hostile.aftermath import complaints
from tests.hostile.siege import Siege, console, site_settings
from tests.peers.system import System

FILES = Path(__file__).parents[3] / "shared" / "data" / "dicom" / "hostile"


def main() -> int:
    """Return 0 when the system has stood it."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--pdus", type=int, default=10_000, help="fuzzed PDUs")
    parser.add_argument("--seed", default="1", help="what the fuzzer begins with")
    parser.add_argument("--cut-every", type=int, default=1, help="bytes between two ends of a conversation")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, on what we write on purpose
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started is stopped
    folder = Path(tempfile.mkdtemp(prefix="hilum-hostile-")) / "deep" / "inside"
    folder.mkdir(parents=True)
    console.print(f"seed {options.seed}, {options.pdus} fuzzed PDUs, in {folder}")
    if not FILES.is_dir():
        console.print("without the malformed files: there are none at ../shared/data/dicom/hostile")
    told = _besieged(folder, options)
    if not told:
        shutil.rmtree(folder.parents[1])
    return 1 if told else 0


def _besieged(folder: Path, options: argparse.Namespace) -> list[str]:
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        del os.environ[name]
    os.environ |= {f"HILUM_{name.upper()}": str(value) for name, value in site_settings(folder).items()}
    os.chdir(folder)  # where no hilum.toml lies
    system = System(folder)
    try:
        siege = Siege(system, folder, seed=options.seed)
        siege.run(pdus=options.pdus, cut_every=options.cut_every, files=FILES if FILES.is_dir() else None)
        told = [*siege.complaints(), *complaints(folder), *siege.complaints()]
        siege.tell(told)
        return told
    finally:
        system.stop()


if __name__ == "__main__":
    sys.exit(main())
