"""How a process of ours logs, and what must never be in a log: values of strangers' data sets."""

import logging
import traceback
import warnings
from typing import Any

import pydicom.config
from sqlalchemy.exc import OperationalError

from hilum.errors import HilumError
from hilum.settings import settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_QUOTES_NOBODY = (HilumError, OSError, OperationalError)


def set_up_log() -> None:
    """Have this process log to stderr, at the settings' level, in one form, with values kept out."""
    keep_values_out()
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(FORMAT))
    logging.basicConfig(level=settings().log_level, handlers=[handler])


def keep_values_out() -> None:
    """Silence the libraries' remarks on data sets, for this process: they quote patients' data.

    What matters of a strange data set we log ourselves, without its values.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Formatter(logging.Formatter):
    """Tracebacks without the words of errors that may quote a data set; with them at level DEBUG."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The traceback and its causes, the first cause first."""
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            return super().formatException(ei)
        told, error = [], ei[1]
        while error is not None:
            told.append("".join(traceback.format_tb(error.__traceback__)) + _named(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nand then\n".join(reversed(told))


def _named(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name}: {error}" if isinstance(error, _QUOTES_NOBODY) else name
