"""`python -m dicom_listener`: one listener process."""

import logging
import sys

from dicom_listener.server import serve
from hilum.errors import SettingsError
from hilum.queue import LOG_FORMAT
from hilum.settings import settings


def main() -> None:
    """Serve with the settings in force; a wrong one is said in words and ends the process."""
    try:
        logging.basicConfig(level=settings().log_level, format=LOG_FORMAT)
        serve(settings())
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
