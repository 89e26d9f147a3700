"""The Celery app with the tasks of a study's way: `celery -A worker.app worker ...`."""

from hilum.log import keep_values_out
from hilum.queue import app
from worker import classify, deliver, inspect, prepare, report, sweep

keep_values_out()

__all__ = ["app", "classify", "deliver", "inspect", "prepare", "report", "sweep"]
