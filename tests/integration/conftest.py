"""Fixtures of the tests that run several processes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.schema import upgrade
from db.session import engine
from tests.peers.listener import Listener

StartListener = Callable[..., Listener]


@pytest.fixture
def start_listener(tmp_path: Path) -> Iterator[StartListener]:
    """Call it with settings to start a listener on a database of the test's own."""
    started: list[Listener] = []

    def start(**settings: Any) -> Listener:
        url = str(settings.get("database_url", f"sqlite:///{tmp_path / 'hilum.sqlite'}"))
        upgrade(url)
        started.append(Listener(tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        each.stop()
        engine(each.database_url).dispose()
