"""What operators may ask or tell running workers: `inspect network`, `inspect batches`, `control load`."""

import logging
import threading
from typing import Any

from celery.worker.control import control_command, inspect_command
from sqlalchemy.exc import SQLAlchemyError

from hilum.errors import HilumError
from worker.classify import reads
from worker.reader import load, readers

log = logging.getLogger(__name__)


@inspect_command()
def network(state: Any) -> dict[str, Any]:
    """The champion as this worker has it loaded, other networks that it has, and those it could not load."""
    champion = readers.champion()
    if champion is None:
        return {"loaded": False, **readers.about()}
    return {"loaded": True, **champion.about(), **readers.about()}


@inspect_command()
def batches(state: Any) -> dict[str, Any]:
    """Sizes of the last batches of this worker, and seconds from asking to answer."""
    champion = readers.champion()
    return {} if champion is None else dict(champion.batcher.statistics())


@control_command(name="load")
def load_networks(state: Any) -> dict[str, Any]:
    """Load what is in service by now, so that no study waits for it."""
    if not reads(state.app):
        return {"ok": "this worker reads nothing"}
    threading.Thread(target=_load, name="load network", daemon=True).start()
    return {"ok": "loading what is in service"}


def _load() -> None:
    try:
        load()
    except (HilumError, SQLAlchemyError, OSError) as error:  # each study will say so, too
        log.error("cannot load the network: %s", error)
