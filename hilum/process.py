"""How a process of ours begins."""

import os
import sys

from hilum.errors import SettingsError
from hilum.log import set_up_log
from hilum.settings import settings

OWNER_ALONE = 0o077
"""The umask: what we write holds patients' data, and is nobody else's to read."""


def begin() -> None:
    """What every process that serves does first: keep its files to itself, and log as the settings say."""
    os.umask(OWNER_ALONE)
    set_up_log()


def require_settings() -> None:
    """End this process in words when a setting is wrong."""
    try:
        settings()
    except SettingsError as error:
        sys.exit(str(error))
