"""Artefacts in the store: every network that may read here lies below networks/, by its digest."""

from pathlib import Path

from hilum.errors import NetworkError
from hilum.network import MANIFEST, Artefact, load_artefact
from hilum.store import NETWORKS, Store


def keep(store: Store, folder: Path) -> Artefact:
    """Return the artefact as it lies in the store, copied there from a folder if it did not yet.

    It is checked before and after, and on disk when this returns; the manifest comes last, so that what a
    crash leaves is no artefact. Raises NetworkError as `load_artefact` does, and OSError when the disk fails.
    """
    artefact = load_artefact(folder)
    try:
        return kept(store, artefact.digest)
    except NetworkError:  # not there yet, or damaged: copied anew
        for name in (*sorted(artefact.manifest["sha256"]), MANIFEST):
            store.copy(folder / name, f"{place(artefact.digest)}/{name}")
    return kept(store, artefact.digest)


def kept(store: Store, digest: str) -> Artefact:
    """Return the artefact of this digest from the store, after every check.

    Raises NetworkError when it is not there, or not as it was.
    """
    artefact = load_artefact(store.path(place(digest)))
    if artefact.digest != digest:
        raise NetworkError(f"{artefact.folder} holds another network, {artefact.digest}: bring the right one")
    return artefact


def place(digest: str) -> str:
    """Return the relative path of an artefact's folder in the store."""
    return f"{NETWORKS}/{digest}"
