"""Objects that we fetch from a sender by C-GET: kept as those are that it pushes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import NamedTemporaryFile
from typing import cast

from pydicom import Dataset
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from dicom_listener import status
from dicom_listener.bells import Bells
from dicom_listener.handlers import handle_store
from dicom_listener.spool import Spool
from hilum.settings import settings
from hilum.store import Store


@contextmanager
def keeper() -> Iterator[Callable[[Event], int | Dataset]]:
    """What keeps the objects that come, and answers each with a C-STORE status; it rings until it ends."""
    bells = Bells()
    try:
        yield partial(_keep, store=Store(settings().store), bells=bells)
    finally:
        bells.stop(patience_s=2)


def _keep(event: Event, store: Store, bells: Bells) -> int | Dataset:
    try:
        spool = _spooled(event, store)
    except OSError:
        return status.refusal(status.OUT_OF_RESOURCES, "the store cannot take it: try again later")
    cast(C_STORE, event.request)._dataset_file = spool  # type: ignore[assignment]
    try:
        return handle_store(event, store, bells)
    finally:
        spool.drop()


def _spooled(event: Event, store: Store) -> Spool:
    """The object as a file beside the store's own, as the listener streams it there."""
    limits = settings()
    content = event.encoded_dataset(include_meta=False)
    head = event.encoded_dataset()[: -len(content) or None]
    with NamedTemporaryFile(dir=store.aside, delete=False) as file:
        file.write(head)
        spool = Spool(
            file,
            most_mb=limits.max_object_mb,
            require_free=lambda: store.require_free(limits.keep_free_mb),
        )
        spool.write(content)
    return spool
