"""The Celery app with the training task: `celery -A training.app worker -Q training --pool prefork -c 1`."""

from hilum import control
from hilum.process import require_settings
from hilum.queue import app
from training import inspect, tasks

require_settings()  # Celery would tell it by a traceback

__all__ = ["app", "control", "inspect", "tasks"]
