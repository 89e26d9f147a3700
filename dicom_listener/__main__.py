"""`python -m dicom_listener`: one listener process."""

import sys

from dicom_listener.server import serve
from hilum.errors import SettingsError
from hilum.process import begin
from hilum.settings import settings


def main() -> None:
    """Serve with the settings in force; a wrong one is said in words and ends the process."""
    try:
        begin()
        serve(settings())
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
