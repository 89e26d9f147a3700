"""How a process of ours begins."""

import os

from hilum.log import set_up_log

OWNER_ALONE = 0o077
"""The umask: what we write holds patients' data, and is nobody else's to read."""


def begin() -> None:
    """What every process that serves does first: keep its files to itself, and log as the settings say."""
    os.umask(OWNER_ALONE)
    set_up_log()
