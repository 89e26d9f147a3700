"""What operators may ask running workers: `inspect network`, `inspect batches`."""

from typing import Any

from celery.worker.control import inspect_command

from worker.reader import loaded


@inspect_command()
def network(state: Any) -> dict[str, Any]:
    """The network that this worker has loaded: version, digest, device, engine, precision."""
    reader = loaded()
    if reader is None:
        return {"loaded": False}
    engine = reader.batcher.engine
    return {
        "loaded": True,
        "version": reader.artefact.version,
        "digest": reader.artefact.digest,
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
    }


@inspect_command()
def batches(state: Any) -> dict[str, Any]:
    """Sizes of the last batches of this worker, and seconds from asking to answer."""
    reader = loaded()
    return {} if reader is None else dict(reader.batcher.statistics())
