"""The life of a piece of work: nothing is lost, nothing is done twice."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, func, select, text, update
from sqlalchemy.orm import Session

from db import jobs, studies
from db.clock import from_now
from db.jobs import Claim
from db.session import transaction
from db.tables import Job, JobState, StudyState
from hilum.errors import LeaseLost
from hilum.queue import CLASSIFY, PREPARE, REPORT
from tests.integration.examples import STUDY, record_a_study
from tests.peers.helpers import wait_for

T = TypeVar("T")

ALIVE, DEAD = 60.0, -1.0
"""Leases, in seconds: of a worker that lives, and of one that has died already."""


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A transaction in a database with one study whose preparation is due."""
    with transaction() as session:
        record_a_study(session)
    with transaction() as session:
        yield session


def the_job(session: Session) -> Job:
    return session.scalars(select(Job).execution_options(populate_existing=True)).one()


def claim(session: Session, lease_s: float = ALIVE) -> Claim:
    held = jobs.claim(session, PREPARE, STUDY, lease_s=lease_s)
    assert held is not None
    return held


def want(session: Session, due_in_s: float = 0.0) -> bool:
    return jobs.want(session, PREPARE, STUDY, study_uid=STUDY, due_in_s=due_in_s)


def die(session: Session, times: int) -> None:
    for _ in range(times):
        claim(session, lease_s=DEAD)
        jobs.free_expired(session)


def at_once(times: int, act: Callable[[], T]) -> list[T]:
    """What each of several threads gets that act at the same moment."""
    barrier = Barrier(times)

    def run(_: int) -> T:
        barrier.wait(10)
        return act()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(run, range(times)))


def test_of_many_workers_asking_at_once_exactly_one_gets_the_work(database_url: str) -> None:
    with transaction() as session:
        record_a_study(session)

    def ask() -> Claim | None:
        with transaction() as session:
            return jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE)

    assert sum(held is not None for held in at_once(8, ask)) == 1


def test_work_wanted_by_many_at_once_is_one_piece_of_work(database_url: str) -> None:
    with transaction() as session:
        record_a_study(session)

    def ask() -> bool:
        with transaction() as session:
            return jobs.want(session, CLASSIFY, STUDY, study_uid=STUDY)

    assert any(at_once(8, ask)), "somebody rings; a bell too many does no harm"
    with transaction() as session:
        assert jobs.due(session, [CLASSIFY]) == 1


def test_work_is_not_given_out_before_it_is_due(session: Session) -> None:
    want(session, due_in_s=60)
    assert jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE) is None
    early_by_s = jobs.too_early_by_s(session, PREPARE, STUDY)
    assert early_by_s is not None
    assert 55 < early_by_s <= 60


def test_a_bell_for_work_that_becomes_due_while_it_is_asked_for_counts_as_early(session: Session) -> None:
    want(session, due_in_s=0.2)
    assert jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE) is None
    wait_for(lambda: jobs.due(session, [PREPARE]), 5)
    assert jobs.too_early_by_s(session, PREPARE, STUDY) == 0


def test_work_that_is_at_work_is_not_too_early(session: Session) -> None:
    claim(session)
    assert jobs.too_early_by_s(session, PREPARE, STUDY) is None


def test_done_work_is_not_given_out_again(session: Session) -> None:
    assert jobs.finish(session, claim(session)) is False
    assert the_job(session).state == JobState.DONE
    assert jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE) is None


def test_a_worker_that_lost_its_lease_cannot_finish(session: Session) -> None:
    lost = claim(session, lease_s=DEAD)
    jobs.free_expired(session)
    held = claim(session)
    for end in (
        lambda: jobs.finish(session, lost),
        lambda: jobs.fail(session, lost, because="it raised"),
        lambda: jobs.put_off(session, lost, pause_s=1, because="away"),
        lambda: jobs.give_up(session, lost, because="refused"),
    ):
        with pytest.raises(LeaseLost, match="taken over"):
            end()
    assert jobs.finish(session, held) is False


def test_a_renewed_lease_does_not_run_out(session: Session) -> None:
    held = claim(session, lease_s=DEAD)
    jobs.renew(session, [held], lease_s=ALIVE)
    assert jobs.free_expired(session) == []


def test_a_lease_that_was_lost_cannot_be_renewed(session: Session) -> None:
    lost = claim(session, lease_s=DEAD)
    jobs.free_expired(session)
    jobs.renew(session, [lost], lease_s=ALIVE)
    assert the_job(session).lease_token is None


def test_work_wanted_again_while_it_is_at_work_is_done_again(session: Session) -> None:
    held = claim(session)
    want(session)
    assert jobs.finish(session, held) is True, "and it needs a bell"
    assert jobs.finish(session, claim(session)) is False
    assert the_job(session).state == JobState.DONE


@pytest.mark.parametrize("end", [JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED])
def test_work_wanted_again_after_its_end_is_done_again(session: Session, end: JobState) -> None:
    jobs.finish(session, claim(session))
    session.execute(update(Job).values(state=end))
    assert want(session) is True
    assert jobs.finish(session, claim(session)) is False


def test_each_image_puts_the_work_off_but_only_the_first_rings(session: Session) -> None:
    session.execute(delete(Job))
    assert want(session, due_in_s=2) is True
    assert want(session, due_in_s=60) is False
    assert (jobs.too_early_by_s(session, PREPARE, STUDY) or 0) > 50


def test_work_whose_bell_was_lost_rings_when_it_is_wanted_again(session: Session) -> None:
    session.execute(update(Job).values(rung_at=from_now(-jobs.BELL_PATIENCE_S - 1)))
    assert want(session) is True


def test_work_that_became_urgent_stays_urgent_while_it_waits(session: Session) -> None:
    jobs.want(session, PREPARE, STUDY, study_uid=STUDY, urgent=True)
    jobs.want(session, PREPARE, STUDY, study_uid=STUDY, urgent=False)
    assert claim(session).urgent


def test_work_whose_bell_rang_stays_urgent_too(session: Session) -> None:
    session.execute(update(Job).values(urgent=True, rung_at=None))
    want(session)
    assert claim(session).urgent


def test_work_that_becomes_urgent_needs_a_bell_in_the_other_queue(session: Session) -> None:
    assert want(session, due_in_s=60) is False
    assert jobs.want(session, PREPARE, STUDY, study_uid=STUDY, urgent=True) is True
    assert jobs.want(session, PREPARE, STUDY, study_uid=STUDY, urgent=True) is False


def test_whoever_rings_again_is_told_whether_the_work_is_urgent(session: Session) -> None:
    assert jobs.note_bell(session, PREPARE, STUDY) is False
    session.execute(update(Job).values(urgent=True))
    assert jobs.note_bell(session, PREPARE, STUDY) is True


def test_the_death_of_its_worker_counts_and_frees_the_work(session: Session) -> None:
    die(session, times=1)
    assert claim(session).deaths == 1


def test_only_expired_leases_are_freed(session: Session) -> None:
    claim(session, lease_s=ALIVE)
    assert jobs.free_expired(session) == []
    assert the_job(session).deaths == 0


def test_after_three_deaths_the_work_is_quarantined_with_its_reason(session: Session) -> None:
    die(session, times=2)
    claim(session, lease_s=DEAD)
    [freed] = jobs.free_expired(session)
    assert freed.state == JobState.QUARANTINED
    assert freed.error == "the worker died 3 times while at it"
    assert jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE) is None


def test_success_forgets_the_deaths_before_it(session: Session) -> None:
    die(session, times=2)
    jobs.finish(session, claim(session))
    want(session)
    die(session, times=1)
    assert the_job(session).state == JobState.WAITING


def test_work_that_raises_is_tried_again_with_growing_pauses(session: Session) -> None:
    pauses = []
    for _ in range(2):
        jobs.fail(session, claim(session), because="it raised")
        pauses.append(jobs.too_early_by_s(session, PREPARE, STUDY) or 0)
        jobs.hurry(session, PREPARE, [STUDY])
    assert 1 < pauses[0] <= 2 < pauses[1] <= 4


def test_work_that_raises_too_often_is_shown_as_failed(session: Session) -> None:
    for _ in range(jobs.ATTEMPTS_BEFORE_FAILED):
        jobs.fail(session, claim(session), because="it raised")
        jobs.hurry(session, PREPARE, [STUDY])
    assert the_job(session).state == JobState.FAILED
    assert the_job(session).error == "it raised"


def test_waiting_is_no_failure_however_long_it_lasts(session: Session) -> None:
    for _ in range(50):
        jobs.put_off(session, claim(session), pause_s=0, because="nobody answers")
    jobs.fail(session, claim(session), because="it raised")
    assert the_job(session).state == JobState.WAITING
    assert the_job(session).attempts == 1


def test_failed_work_that_is_wanted_again_has_all_its_tries_anew(session: Session) -> None:
    session.execute(update(Job).values(state=JobState.FAILED, attempts=5, error="it raised"))
    want(session)
    assert (the_job(session).attempts, the_job(session).error) == (0, None)


def test_waiting_work_that_is_wanted_again_keeps_the_count_of_its_tries(session: Session) -> None:
    jobs.fail(session, claim(session), because="it raised")
    want(session)
    assert (the_job(session).attempts, the_job(session).error) == (1, "it raised")


def test_quarantined_work_that_is_wanted_again_is_tried_once_and_alone(session: Session) -> None:
    die(session, times=3)
    want(session)
    die(session, times=1)
    assert the_job(session).state == JobState.QUARANTINED


def test_a_bell_rings_again_only_for_work_whose_bell_is_lost(session: Session) -> None:
    assert jobs.ring_again(session, [PREPARE], most=10) == [], "its bell is on its way"
    session.execute(update(Job).values(rung_at=from_now(-jobs.BELL_PATIENCE_S - 1)))
    assert jobs.ring_again(session, [CLASSIFY], most=10) == [], "it is of another kind"
    assert jobs.ring_again(session, [PREPARE], most=0) == []
    assert jobs.ring_again(session, [PREPARE], most=10) == [(PREPARE, STUDY, False)]
    assert jobs.ring_again(session, [PREPARE], most=10) == [], "it rings only once"


def test_a_bell_does_not_ring_again_for_work_that_is_not_due_or_at_work(session: Session) -> None:
    session.execute(update(Job).values(rung_at=None, due_at=from_now(60)))
    assert jobs.ring_again(session, [PREPARE], most=10) == []
    jobs.hurry(session, PREPARE, [STUDY])
    claim(session)
    assert jobs.ring_again(session, [PREPARE], most=10) == []


def test_urgent_bells_ring_before_those_that_waited_longer(session: Session) -> None:
    record_a_study(session, "1.2.5")
    record_a_study(session, "1.2.6")
    session.execute(update(Job).values(rung_at=None, due_at=from_now(-60)))
    session.execute(update(Job).where(Job.subject == "1.2.6").values(urgent=True, due_at=from_now(-1)))
    assert jobs.ring_again(session, [PREPARE], most=1) == [(PREPARE, "1.2.6", True)]


def test_cancelled_work_is_not_given_out_and_its_result_is_dropped(session: Session) -> None:
    held = claim(session)
    assert jobs.cancel(session, STUDY) == 1
    with pytest.raises(LeaseLost, match="cancelled"):
        jobs.finish(session, held)
    assert jobs.claim(session, PREPARE, STUDY, lease_s=ALIVE) is None


def test_cancelling_counts_only_what_it_stops(session: Session) -> None:
    jobs.want(session, REPORT, STUDY, study_uid=STUDY)
    jobs.finish(session, claim(session))
    assert jobs.cancel(session, STUDY) == 1
    assert jobs.cancel(session, STUDY) == 0


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED])
def test_replayed_work_begins_anew(session: Session, end: JobState) -> None:
    session.execute(update(Job).values(state=end, deaths=3, attempts=5, error="it raised"))
    assert jobs.replay(session, STUDY) == [(PREPARE, STUDY, False)]
    held = claim(session)
    assert (held.deaths, held.attempts, the_job(session).error) == (0, 0, None)


def test_replaying_leaves_done_and_waiting_work_alone(session: Session) -> None:
    assert jobs.replay(session, STUDY) == []
    jobs.finish(session, claim(session))
    assert jobs.replay(session, STUDY) == []


def test_people_see_unfinished_work_by_kind_and_state(session: Session) -> None:
    jobs.want(session, REPORT, STUDY, study_uid=STUDY)
    jobs.finish(session, claim(session))
    [(kind, state, how_many, _)] = jobs.depths(session)
    assert (kind, state, how_many) == (REPORT, JobState.WAITING, 1)
    assert [job.kind for job in jobs.of_study(session, STUDY)] == [PREPARE, REPORT]


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_cancel_stops_what_a_step_passes_on_meanwhile(database_url: str) -> None:
    with transaction() as session:
        record_a_study(session)
    with transaction() as session:
        held = claim(session)

    def cancel() -> int:
        with transaction() as session:
            return jobs.cancel(session, STUDY)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            studies.reach(session, STUDY, StudyState.PREPARED)
            jobs.want(session, CLASSIFY, STUDY, study_uid=STUDY)
            jobs.finish(session, held)
            cancelled = pool.submit(cancel)
            assert wait([cancelled], 0.5).not_done, "it waits for the step"
        assert cancelled.result(10) == 1
    with transaction() as session:
        assert [job.state for job in jobs.of_study(session, STUDY)] == [JobState.DONE, JobState.CANCELLED]


def test_unfinished_work_is_counted_without_a_look_at_all_that_is_done(session: Session) -> None:
    statements = []
    event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2:4]))
    jobs.depths(session)
    statement, parameters = statements[0]
    is_sqlite = session.connection().dialect.name == "sqlite"
    if not is_sqlite:  # a table of one row is scanned whatever there is
        session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = session.connection().exec_driver_sql(
        f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}", parameters
    )
    assert "ix_jobs_unfinished" in str(plan.all())


class JobLife(RuleBasedStateMachine):
    """Anything may happen to one piece of work, in any order; this model says what must be true after it."""

    def __init__(self) -> None:
        super().__init__()
        self.state: JobState = JobState.WAITING
        self.held: Claim | None = None
        self.dead = False
        self.deaths = 0
        self.wanted_meanwhile = False
        self.stale: list[Claim] = []
        with transaction() as session:
            session.execute(delete(Job))
            want(session)

    def let_go(self) -> None:
        if self.held is not None:
            self.stale.append(self.held)
        self.held = None

    @rule()
    def it_is_wanted(self) -> None:
        with transaction() as session:
            want(session)
        self.wanted_meanwhile = self.held is not None
        self.state = JobState.WAITING

    @rule(dies=st.booleans())
    def a_worker_asks(self, dies: bool) -> None:
        with transaction() as session:
            jobs.hurry(session, PREPARE, [STUDY])
            got = jobs.claim(session, PREPARE, STUDY, lease_s=DEAD if dies else ALIVE)
        assert (got is not None) == (self.state == JobState.WAITING and self.held is None)
        if got is not None:
            self.held, self.dead, self.wanted_meanwhile = got, dies, False
            assert got.deaths == self.deaths

    @precondition(lambda self: self.held is not None)
    @rule()
    def it_finishes(self) -> None:
        assert self.held is not None
        with transaction() as session:
            assert jobs.finish(session, self.held) == self.wanted_meanwhile
        self.state = JobState.WAITING if self.wanted_meanwhile else JobState.DONE
        self.deaths = 0
        self.let_go()

    @precondition(lambda self: self.held is not None)
    @rule()
    def its_destination_is_away(self) -> None:
        assert self.held is not None
        with transaction() as session:
            jobs.put_off(session, self.held, pause_s=60, because="nobody answers")
        self.let_go()

    @precondition(lambda self: self.held is not None)
    @rule()
    def it_gives_up(self) -> None:
        assert self.held is not None
        with transaction() as session:
            jobs.give_up(session, self.held, because="refused")
        self.state = JobState.FAILED
        self.let_go()

    @rule()
    def the_sweep_looks(self) -> None:
        with transaction() as session:
            freed = jobs.free_expired(session)
        assert len(freed) == (self.held is not None and self.dead)
        if freed:
            self.deaths += 1
            if self.deaths >= jobs.DEATHS_BEFORE_QUARANTINE:
                self.state = JobState.QUARANTINED
            self.let_go()

    @rule()
    def a_person_cancels(self) -> None:
        with transaction() as session:
            jobs.cancel(session, STUDY)
        if self.state != JobState.DONE:
            self.state = JobState.CANCELLED
            self.let_go()

    @rule()
    def a_person_replays(self) -> None:
        with transaction() as session:
            rung = jobs.replay(session, STUDY)
        ended = self.state in (JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED)
        assert len(rung) == ended
        if ended:
            self.state, self.deaths = JobState.WAITING, 0

    @precondition(lambda self: self.stale)
    @rule()
    def a_worker_that_lost_it_wants_to_finish(self) -> None:
        with pytest.raises(LeaseLost), transaction() as session:
            jobs.finish(session, self.stale[-1])

    @invariant()
    def the_row_says_so(self) -> None:
        with transaction() as session:
            job = the_job(session)
            held_by = None if self.held is None else self.held.token
            assert (job.state, job.lease_token, job.deaths) == (self.state, held_by, self.deaths)
            assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_whatever_happens_to_it_work_is_neither_lost_nor_given_out_twice(database_url: str) -> None:
    with transaction() as session:
        record_a_study(session)
    run_state_machine_as_test(
        JobLife,
        settings=hypothesis_settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
