"""The Celery tasks: prepare, classify, report, deliver, sweep."""
