"""The tables' versions: Alembic migrations, run by `hilum up` and `hilum database upgrade`."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

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
        return MigrationContext.configure(connection).get_current_revision() == newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.set_main_option("path_separator", "os")
    return config
