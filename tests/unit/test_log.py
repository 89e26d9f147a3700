"""How processes of ours begin and log, and what must not be in a log."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hilum.errors import Undecodable
from hilum.log import FORMAT, Formatter

PATIENT = "DOE^JOHN"


@pytest.fixture(params=[logging.INFO, logging.DEBUG], ids=["INFO", "DEBUG"])
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(request.param)
    yield request.param
    root.setLevel(before)


def logged(error: Exception, cause: Exception | None = None) -> str:
    """What a log says of an error that was raised from another."""
    try:
        raise error from cause
    except type(error) as raised:
        caught = (type(raised), raised, raised.__traceback__)
        record = logging.LogRecord("worker", logging.ERROR, __file__, 1, "it failed", (), caught)
    return Formatter(FORMAT).format(record)


def test_a_traceback_names_errors_and_quotes_none_but_at_debug(level: int) -> None:
    text = logged(KeyError(PATIENT), ValueError(f"no number: {PATIENT}"))
    assert "it failed" in text
    assert "KeyError" in text and "ValueError" in text
    assert "in logged" in text
    assert (PATIENT in text) is (level == logging.DEBUG)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), Undecodable("No space left")])
def test_what_we_say_ourselves_is_in_the_log(error: Exception) -> None:
    assert "No space left" in logged(error)


def test_a_process_begins_with_its_files_to_itself_and_logs_at_the_settings_level() -> None:
    code = (
        "import logging, os; from hilum.process import begin; begin(); "
        "print(oct(os.umask(0)), logging.getLogger().level, logging.getLogger('pydicom').level)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HILUM_LOG_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0o77", str(logging.WARNING), str(logging.CRITICAL)]
