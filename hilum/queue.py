"""The Celery app, the names of its tasks and queues, and the bell."""

import logging
import time
import warnings
from datetime import UTC, datetime, timedelta
from itertools import chain
from queue import Empty
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning
from celery.schedules import crontab, schedule
from kombu.entity import Queue
from kombu.exceptions import ChannelError, OperationalError
from kombu.transport import redis, virtual
from redis.exceptions import RedisError

from hilum.kernel import silence_options
from hilum.process import begin
from hilum.settings import settings

log = logging.getLogger(__name__)

PREPARE = "worker.prepare"
CLASSIFY = "worker.classify"
SHADOW = "worker.shadow"
VERDICT = "worker.verdict"
REPORT = "worker.report"
DELIVER = "worker.deliver"
COMMIT = "worker.commit"
LEDGER = "worker.ledger"
SWEEP = "worker.sweep"
RETENTION = "worker.retention"
DAILY = "worker.daily"
DRIFT = "worker.drift"
CONSTANCY = "worker.constancy"
NIGHT = "training.night"
TRAIN = "training.train"

QUEUES: dict[str, tuple[str, ...]] = {
    PREPARE: ("prepare.urgent", "prepare"),
    CLASSIFY: ("classify.urgent", "classify"),
    SHADOW: ("classify",),  # rung for only when nothing waits for the champion
    VERDICT: ("prepare.urgent", "prepare"),  # a stranger's bytes, as images are
    REPORT: ("deliver",),
    DELIVER: ("deliver",),
    COMMIT: ("deliver",),
    LEDGER: ("deliver",),  # a source is slow to tell, and the sweep must not wait for it
    SWEEP: ("sweep",),
    RETENTION: ("sweep",),
    DAILY: ("deliver",),
    DRIFT: ("deliver",),
    CONSTANCY: ("deliver",),
    NIGHT: ("training",),
    TRAIN: ("training",),
}
"""Kind of work -> its queues; of two, the first is for urgent studies."""

_BROKER_SILENCE_S = 15
_ONE_MORE_TRY = {"max_retries": 1, "interval_start": 0}
"""At once, since a pooled connection may be a dead one; kombu would wait 6 s for a broker that is away."""
_RETENTION_S = 60.0
"""Seconds between two looks for what is old; each takes a second at most."""
_DAILY_S = 60.0
"""Seconds between two looks whether the day's work is to be done."""
_NIGHT_S = 300.0
"""Seconds between two looks whether a training should begin."""


class _Unacknowledged(redis.QoS):
    """What a worker has taken and not acknowledged.

    kombu 5.7 keeps a message's place when its acknowledgement gets lost with the connection, so that a worker
    with one place takes no message ever again. Here the place is free; the broker delivers the message once
    more when its visibility timeout is over, and a bell that comes twice does nothing.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)


redis.Channel.QoS = _Unacknowledged
_receive_one = redis.Channel._receive_one


def _receive_what_is_there(channel: redis.Channel, listening: Any) -> Any:
    """Read one control message, and do not wait for one.

    kombu 5.7 reads in a worker's main loop, and redis-py 8 waits there without any timeout: a connection that
    seemed to hold something, and does not, would stop the worker for good.
    """
    if not listening.connection.can_read(timeout=0):
        raise Empty
    return _receive_one(channel, listening)


redis.Channel._receive_one = _receive_what_is_there  # type: ignore[method-assign]

app = Celery("hilum")

_BEGAN_AT, _BEGAN_S = datetime.now(UTC), time.monotonic()


def steady_now() -> datetime:
    """The time by a clock that nobody sets: the machine's when this process began, and what has passed since.

    Beat goes by it: a machine's clock that is set back an hour would keep the sweep away for an hour.
    """
    return _BEGAN_AT + timedelta(seconds=time.monotonic() - _BEGAN_S)


class _WhereHeard(schedule):
    """A schedule that keeps silent while its last message waits: where nobody trains, one is all there is."""

    def is_due(self, last_run_at: datetime) -> Any:
        said = super().is_due(last_run_at)
        return (False, said.next) if said.is_due and _waits(queue_of(NIGHT)) else said


def _waits(name: str) -> bool:
    """Whether a message waits in a queue, as far as the broker tells."""
    try:
        return depths()[name] > 0
    except (OperationalError, OSError):
        return True


def _configuration() -> dict[str, Any]:
    """Read when Celery first needs it, so that importing this module reads nothing."""
    return {
        "broker_url": settings().broker,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 600,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "health_check_interval": 5,
            "socket_keepalive": True,
            "socket_keepalive_options": silence_options(_BROKER_SILENCE_S),
            **_ONE_MORE_TRY,  # for whoever rings; workers have their own rule above
        },
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,  # the database holds results; a result backend would be a second record
        # A message is only a bell, so it is acknowledged when work starts: work whose worker dies is rung
        # again by the sweep when its lease runs out, and no redelivery is needed.
        "task_acks_late": False,
        "task_queues": [Queue(name) for name in dict.fromkeys(chain(*QUEUES.values()))],
        "task_create_missing_queues": False,
        "worker_prefetch_multiplier": 1,  # a held message is a study that waits
        "worker_send_task_events": False,
        "beat_schedule": {
            "sweep": {
                "task": SWEEP,
                "schedule": schedule(settings().sweep_s, nowfun=steady_now),
                # a sweep that waited longer than two slots is a sweep too many
                "options": {"queue": "sweep", "expires": 2 * settings().sweep_s},
            },
            "ledger": {
                "task": LEDGER,
                "schedule": crontab(
                    minute=7, nowfun=steady_now
                ),  # by the clock: a beat started anew misses none
                "options": {"queue": "deliver", "expires": 3600},
            },
            "retention": {
                "task": RETENTION,
                "schedule": schedule(_RETENTION_S, nowfun=steady_now),
                "options": {"queue": "sweep", "expires": _RETENTION_S},
            },
            "daily": {
                "task": DAILY,
                "schedule": schedule(_DAILY_S, nowfun=steady_now),
                "options": {"queue": "deliver", "expires": _DAILY_S},
            },
            "night": {
                "task": NIGHT,
                "schedule": _WhereHeard(_NIGHT_S, nowfun=steady_now),
                "options": {"queue": "training", "expires": _NIGHT_S},
            },
        },
    }


app.add_defaults(_configuration)


@signals.celeryd_init.connect
def _let_root_work(**said: object) -> None:
    """Workers warn when root starts them, because of pickle; ours take nothing but JSON."""
    warnings.filterwarnings("ignore", category=SecurityWarning)


@signals.setup_logging.connect
def _begin(**said: object) -> None:
    """Celery asks this of workers and beat, and leaves their logging to us."""
    begin()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_tells_something)


def _tells_something(record: logging.LogRecord) -> bool:
    """What beat sends every few seconds would be three lines of each log at INFO, for ever."""
    said = record.getMessage()
    return record.levelno != logging.INFO or not any(
        name in said for name in (SWEEP, RETENTION, DAILY, NIGHT)
    )


def queue_of(kind: str, *, urgent: bool = False) -> str:
    """The queue that carries this kind of work."""
    return QUEUES[kind][0] if urgent else QUEUES[kind][-1]


def ring(kind: str, subject: str, *, urgent: bool = False, countdown_s: float = 0.0) -> bool:
    """Tell the workers that there is work; True when the broker took the message.

    Called after the commit of the job's row. A bell that fails is no fault: the sweep
    finds the row and rings again.
    """
    try:
        app.send_task(
            kind,
            args=(subject,),
            queue=queue_of(kind, urgent=urgent),
            countdown=countdown_s or None,
            retry=True,
            retry_policy=_ONE_MORE_TRY,
        )
    except (OperationalError, OSError) as error:
        log.warning("the broker does not answer (%s); the sweep will ring for %s later", error, kind)
        return False
    return True


def have_networks_loaded() -> None:
    """Have classify workers (`classify@host`) load what is in service, so that no study waits for it."""
    try:
        app.control.broadcast("load", pattern="classify*", matcher="glob")
    except (OperationalError, RedisError, OSError) as error:
        log.warning("the broker does not answer (%s): workers find out with their next study", error)


def depths() -> dict[str, int]:
    """Queue -> how many messages wait in it.

    Raises kombu.exceptions.OperationalError when the broker is away.
    """
    try:
        with app.connection_for_read() as connection, connection.channel() as channel:
            return {name: _depth(channel, name) for name in dict.fromkeys(chain(*QUEUES.values()))}
    except RedisError as error:  # kombu lets the client's own errors through here
        raise OperationalError(str(error)) from error


def _depth(channel: Any, name: str) -> int:
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except ChannelError:  # a queue that never held a message does not exist yet
        return 0
