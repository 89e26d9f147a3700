"""The tables' versions: Alembic migrations, run by `hilum up` and `hilum database upgrade`."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from db.session import engine


def upgrade(url: str) -> None:
    """Bring the database to the newest version; nothing happens when it is there."""
    with engine(url).begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_current(url: str) -> bool:
    """Whether the database has the tables of this version of Hilum."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    with engine(url).connect() as connection:
        return revision(connection) == newest


def revision(connection: Connection) -> str | None:
    """The version of the tables; None when there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def is_known(version: str) -> bool:
    """Whether this version of Hilum can bring such tables to its own."""
    return version in {each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.set_main_option("path_separator", "os")
    return config
