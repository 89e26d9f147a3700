"""The Celery app with the training task: `celery -A training.app worker -Q training --pool prefork -c 1`."""

from hilum import control
from hilum.queue import app
from training import inspect, tasks

__all__ = ["app", "control", "inspect", "tasks"]
