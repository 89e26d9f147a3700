"""`hilum console`: the HTTP server, and the link of the first administrator."""

import logging

import uvicorn

from console.web.app import create_app
from db import accounts, schema
from db.session import transaction
from hilum.errors import SettingsError
from hilum.log import set_up_log
from hilum.settings import Settings

_STOP_WITHIN_S = 10


def serve(ours: Settings) -> None:
    """Serve the console until SIGINT or SIGTERM.

    Raises SettingsError when the database has not the tables of this version.
    """
    set_up_log()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it has two lines for each look of /readyz
    if not schema.is_current(ours.database):
        raise SettingsError("the database has the tables of another version: `hilum database upgrade` first")
    _print_first_link(ours)
    uvicorn.run(
        create_app(),
        host=ours.console_host,
        port=ours.console_port,
        ssl_certfile=ours.console_tls_certificate,
        ssl_keyfile=ours.console_tls_key,
        log_config=None,
        access_log=False,  # paths name studies; what people do stands in the audit
        server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )


def _print_first_link(ours: Settings) -> None:
    with transaction() as session:
        secret = accounts.first_link(session)
    if secret is not None:
        print(  # noqa: T201 - and not logged: logs are read by others, and kept
            f"Nobody has a password yet. The account {accounts.FIRST_NAME} chooses one here, once, within "
            f"{accounts.LINK_HOURS} hours:\n{ours.console_address}/link/{secret}",
            flush=True,
        )
