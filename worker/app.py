"""The Celery app with the tasks of a study's way: `celery -A worker.app worker ...`."""

from hilum import control
from hilum.process import require_settings
from hilum.queue import app
from worker import (
    classify,
    commitment_report,
    constancy,
    daily,
    deliver,
    drift,
    inspect,
    ledger,
    prepare,
    report,
    retention,
    shadow,
    sweep,
    verdict,
)

require_settings()  # Celery would tell it by a traceback

__all__ = [
    "app",
    "classify",
    "commitment_report",
    "constancy",
    "control",
    "daily",
    "deliver",
    "drift",
    "inspect",
    "ledger",
    "prepare",
    "report",
    "retention",
    "shadow",
    "sweep",
    "verdict",
]
