"""What operators may ask all workers, answered by one that reads no studies."""

from typing import Any

from celery.worker.control import inspect_command


@inspect_command()
def network(state: Any) -> dict[str, Any]:
    """No network is loaded here."""
    return {"loaded": False}


@inspect_command()
def batches(state: Any) -> dict[str, Any]:
    """There are none."""
    return {}
