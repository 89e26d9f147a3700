"""Networks in service: one champion, one shadow, and who decided so."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import networks
from db.networks import NotPossible
from db.session import transaction
from db.tables import Audit, NetworkState, NetworkVersion
from hilum.errors import NetworkError
from hilum.network import LABELS, Artefact
from hilum.settings import settings
from tests.conftest import SettingsChange

A, B, C = "a" * 64, "b" * 64, "c" * 64
WHY = {"because": "the gate's verdict of today"}


@pytest.fixture
def three(database_url: str) -> Iterator[None]:
    """Three networks were brought, of which the first reads."""
    with transaction() as session:
        for digest in (A, B, C):
            networks.bring(session, an_artefact(digest), actor="anna")
        networks.promote(session, A, actor="anna", because="the first")
    yield


def an_artefact(digest: str) -> Artefact:
    manifest = MappingProxyType({"version": f"version-{digest[0]}"})
    return Artefact(
        Path("x"),
        f"version-{digest[0]}",
        digest,
        "resnet50",
        LABELS,
        "square-224-v1",
        1.0,
        True,
        dict(manifest),
    )


def states() -> dict[str, NetworkState]:
    with transaction() as session:
        return {each.digest[0]: each.state for each in networks.known(session)}


def do(what: Callable[..., object], *args: object, **how: object) -> object:
    with transaction() as session:
        return what(session, *args, **{"actor": "anna", **WHY, **how})


def test_what_was_brought_is_a_candidate_and_reads_nothing(three: None) -> None:
    assert states() == {"a": "champion", "b": "candidate", "c": "candidate"}
    with transaction() as session:
        reading = networks.champion(session)
        assert reading is not None
        assert (reading.digest, reading.path) == (A, f"networks/{A}")
        assert networks.shadow(session) is None


def test_a_promoted_network_takes_the_champions_place_and_rollback_gives_it_back(three: None) -> None:
    do(networks.promote, B)
    assert states() == {"a": "retired", "b": "champion", "c": "candidate"}
    do(networks.roll_back)
    assert states() == {"a": "champion", "b": "retired", "c": "candidate"}


def test_rollback_goes_back_along_the_line_and_never_to_what_was_rolled_back(three: None) -> None:
    do(networks.promote, B)
    do(networks.promote, C)
    do(networks.roll_back)
    assert states()["b"] == "champion"
    do(networks.roll_back)
    assert states()["a"] == "champion"
    with pytest.raises(NotPossible, match="no network read here before"):
        do(networks.roll_back)


def test_a_new_shadow_takes_the_place_of_the_former_and_can_become_champion(three: None) -> None:
    do(networks.promote, B, to=NetworkState.SHADOW)
    do(networks.promote, C, to=NetworkState.SHADOW)
    assert states() == {"a": "champion", "b": "candidate", "c": "shadow"}
    do(networks.promote, C)
    assert states() == {"a": "retired", "b": "candidate", "c": "champion"}
    do(networks.promote, A, to=NetworkState.SHADOW)
    do(networks.retire, A)
    assert states() == {"a": "retired", "b": "candidate", "c": "champion"}


def test_a_recalled_champion_is_replaced_in_the_same_step_and_never_reads_again(three: None) -> None:
    do(networks.promote, B)
    do(networks.recall, B)
    assert states() == {"a": "champion", "b": "recalled", "c": "candidate"}
    for to in (NetworkState.CHAMPION, NetworkState.SHADOW):
        with pytest.raises(NotPossible, match="it was recalled"):
            do(networks.promote, B, to=to)
    with pytest.raises(NetworkError, match="was recalled while it read"), transaction() as session:
        networks.require_not_recalled(session, B)


def test_a_recalled_champion_without_a_former_needs_a_successor(three: None) -> None:
    with pytest.raises(NotPossible, match="--with"):
        do(networks.recall, A)
    assert states()["a"] == "champion"
    do(networks.recall, A, successor=C)
    assert states() == {"a": "recalled", "b": "candidate", "c": "champion"}


def test_rollback_passes_over_a_recalled_network(three: None) -> None:
    do(networks.promote, B)
    do(networks.promote, C)
    do(networks.recall, B)
    do(networks.roll_back)
    assert states() == {"a": "champion", "b": "recalled", "c": "retired"}


def test_where_two_people_are_wanted_the_same_one_counts_once(three: None, hilum_env: SettingsChange) -> None:
    hilum_env(promote_two_people=True)
    assert do(networks.promote, B) is False
    assert states()["b"] == "candidate"
    with pytest.raises(NotPossible, match="another person"):
        do(networks.promote, B)
    assert do(networks.promote, B, actor="bert") is True
    assert states()["b"] == "champion"
    do(networks.roll_back)  # an emergency waits for nobody
    assert do(networks.promote, B, actor="bert") is False


@pytest.mark.parametrize(
    ("promote", "state"), [("person", "candidate"), ("shadow", "shadow"), ("champion", "champion")]
)
def test_what_passed_the_gate_becomes_what_the_settings_say(
    three: None, hilum_env: SettingsChange, promote: str, state: str
) -> None:
    hilum_env(promote=promote)
    with transaction() as session:
        networks.after_gate(session, B, passed=True, because="better overall")
        networks.after_gate(session, C, passed=False, because="worse on ROOM2")
    assert states()["b"] == state
    assert states()["c"] == "refused"
    with pytest.raises(NotPossible, match="did not pass the gate"):
        do(networks.promote, C)


def test_what_cannot_read_in_the_precision_that_is_set_becomes_nothing_by_itself(
    three: None, hilum_env: SettingsChange
) -> None:
    hilum_env(promote="champion", precision="int8")
    with transaction() as session:
        networks.after_gate(session, B, passed=True, because="better overall")
    assert states()["b"] == "candidate"


def test_without_a_database_the_network_of_the_settings_is_in_use(hilum_env: SettingsChange) -> None:
    hilum_env(network_dir="/ours")
    assert networks.in_use() == Path("/ours")
    assert not (settings().data_dir / "hilum.sqlite").exists(), "looking makes none"


def test_every_change_is_told_with_its_author_and_reason(three: None) -> None:
    do(networks.promote, B)
    do(networks.roll_back, actor="bert", because="blurred images")
    with transaction() as session:
        told = [(each.action, each.actor) for each in networks.changes(session, B)]
        assert told == [("brought", "anna"), ("promoted", "anna"), ("retired", "bert")]
        last = networks.changes(session)[-1]
        assert (last.digest, last.action, last.because) == (A, "rolled back", "blurred images")
        [audited] = session.scalars(select(Audit).where(Audit.action == "network rolled back"))
        assert audited.actor == "bert"
        assert "blurred images" in audited.detail


def test_of_two_who_promote_at_once_one_is_the_last_and_there_is_one_champion(three: None) -> None:
    both = threading.Barrier(2)

    def promote(digest: str) -> None:
        both.wait(10)
        do(networks.promote, digest)

    threads = [threading.Thread(target=promote, args=(digest,)) for digest in (B, C)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    found = states()
    assert sorted(found.values()) == ["champion", "retired", "retired"]
    assert found["a"] == "retired"


def test_the_database_itself_holds_that_there_is_one_champion(three: None) -> None:
    with pytest.raises(IntegrityError), transaction() as session:
        session.get_one(NetworkVersion, B).state = NetworkState.CHAMPION


def test_a_network_is_found_by_version_and_by_how_its_digest_begins(three: None) -> None:
    def found(session: Session, text: str) -> str:
        return networks.find(session, text).digest

    with transaction() as session:
        assert found(session, "version-b") == found(session, "bbbb") == B
        with pytest.raises(NotPossible, match="there is no network d"):
            found(session, "d")
        networks.bring(session, an_artefact("b" * 63 + "1"), actor="anna")
        with pytest.raises(NotPossible, match="several"):
            found(session, "version-b")
