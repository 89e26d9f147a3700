"""What must never be in a log: pydicom and pynetdicom quote values of strangers' data sets."""

import logging
import warnings

import pydicom.config


def keep_values_out() -> None:
    """Silence the libraries' remarks on data sets, for this process: they quote patients' data.

    What matters of a strange data set we log ourselves, without its values.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
