"""The migrations, from an empty database to the tables of this version."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from db import tables
from db.clock import from_now, now
from db.schema import is_current, upgrade
from db.session import engine


def test_an_empty_database_is_not_current_and_an_upgraded_one_is(empty_database_url: str) -> None:
    assert not is_current(empty_database_url)
    upgrade(empty_database_url)
    assert is_current(empty_database_url)


def test_upgrading_twice_changes_nothing(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with engine(empty_database_url).begin() as connection:
        connection.execute(text("INSERT INTO audit (actor, action, detail) VALUES ('a', 'b', '')"))
    upgrade(empty_database_url)
    with engine(empty_database_url).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 1


def test_the_migrations_make_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with engine(empty_database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_the_databases_clock_counts_seconds_both_ways(empty_database_url: str) -> None:
    with engine(empty_database_url).connect() as connection:
        later, earlier, present = connection.execute(
            select(from_now(90.5).label("l"), from_now(-90.5).label("e"), now().label("n"))
        ).one()
    assert abs((later - present).total_seconds() - 90.5) < 0.1
    assert abs((present - earlier).total_seconds() - 90.5) < 0.1
    assert present.tzinfo is not None
