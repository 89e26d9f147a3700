"""What the control runs: three stages as plain Celery tasks, each a message, and a row when it is done."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from celery import Celery

STAGES = ("prepare", "classify", "deliver")
WORK = "control.work"
WORK_S = 0.1
VISIBILITY_TIMEOUT_S = 10

app = Celery("control", broker=os.environ.get("CONTROL_BROKER"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_default_queue="control",
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
    },
)


@app.task(name=WORK)
def work(study: str, stage: int) -> None:
    """Do a stage of a study, write down that it is done, and hand the study on to the next."""
    time.sleep(WORK_S)
    with closing(database(Path(os.environ["CONTROL_DATABASE"]))) as connection, connection:
        connection.execute("INSERT INTO done VALUES (?, ?)", (study, STAGES[stage]))
    if stage + 1 < len(STAGES):
        work.delay(study, stage + 1)


def database(path: Path) -> sqlite3.Connection:
    """The table of what is done: a row for each time that it was."""
    connection = sqlite3.connect(path, timeout=30)
    connection.execute("CREATE TABLE IF NOT EXISTS done (study TEXT, stage TEXT)")
    return connection
