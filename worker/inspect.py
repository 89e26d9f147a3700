"""What operators may ask and tell running workers: `inspect network`, `inspect batches`, `control drain`."""

from typing import Any

from celery.worker.control import control_command, inspect_command

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


@control_command()
def drain(state: Any) -> dict[str, Any]:
    """Take no new work, so that the worker can be stopped once what it has is done."""
    names = list(state.app.amqp.queues.consume_from)
    for name in names:
        state.consumer.call_soon(state.consumer.cancel_task_queue, name)
    return {"ok": f"no longer consuming from {', '.join(names)}"}
