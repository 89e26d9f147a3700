"""What operators may tell every worker: `control drain`."""

from typing import Any

from celery.worker.control import control_command


@control_command()
def drain(state: Any) -> dict[str, Any]:
    """Take no new work, so that the worker can be stopped once what it has is done."""
    names = list(state.app.amqp.queues.consume_from)
    for name in names:
        state.consumer.call_soon(state.consumer.cancel_task_queue, name)
    return {"ok": f"no longer consuming from {', '.join(names)}"}
