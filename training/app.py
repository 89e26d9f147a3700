"""The Celery app with the training task: `celery -A training.app worker -Q training --pool prefork -c 1`."""

from hilum.queue import app
from training import tasks

__all__ = ["app", "tasks"]
