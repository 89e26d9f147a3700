"""`hilum training show`: what a person sees of the gate's verdict."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn")
from console.cli import app
from db import training_runs
from db.session import transaction
from hilum.errors import HilumError
from tests.unit.test_gate import RULE, patients, said, share, with_phantoms
from training.gate import Verdict, compare


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    """A challenger that is better in two rooms, worse in another, and of a fourth nobody knows."""
    images = with_phantoms(patients(800))
    rooms = np.array(["ROOM1", "ROOM2", "[bold]3", "TINY"])
    some = np.where(np.arange(len(images)) < 20, 3, np.arange(len(images)) % 3)
    images.sources[:800] = rooms[some[:800]]
    challenger = said(images, np.where(images.sources == "[bold]3", share(images, 0.6), share(images, 0.98)))
    return compare(said(images, share(images, 0.8)), challenger, rule=RULE)


@pytest.fixture
def judged(database_url: str, verdict: Verdict) -> int:
    with transaction() as session:
        run = training_runs.begin(session, {"name": "nightly"})
        training_runs.judge(session, run, passed=verdict.passed, gate=verdict.json())
        training_runs.note_tracking(session, run, "sqlite:///mlflow.sqlite#/runs/7")
    return run


def show(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["training", "show", *arguments], env={"COLUMNS": "200"})
    if outcome.exception:
        raise outcome.exception
    return outcome.output


def test_the_verdict_is_shown_with_its_reasons_and_figures(judged: int) -> None:
    lines = show(str(judged)).splitlines()
    assert lines[0].strip() == "Refused."
    words = re.sub(r"\s+", " ", " ".join(lines))
    assert "Worse in source [bold]3, accuracy: 0.585 instead of 0.827" in words
    assert re.search(r"source \[bold\]3 accuracy 2\d\d 0.827 0.585 -0\.\d+ \(-.*?\) worse", words)
    assert re.search(r"source TINY accuracy 20 .* too few cases", words)
    assert "source ROOM1 sensitivity for" not in words
    assert "phantoms answered rightly: 3" in words
    assert words.endswith("tracked at sqlite:///mlflow.sqlite#/runs/7")


def test_programs_get_all_of_it(judged: int, verdict: Verdict) -> None:
    assert json.loads(show(str(judged), "--json")) == verdict.json()


def test_a_training_that_was_not_judged_says_so(database_url: str) -> None:
    with pytest.raises(HilumError, match="training 7 was not judged: there is none"):
        show("7")
    with transaction() as session:
        run = training_runs.begin(session, {"name": "nightly"})
    with pytest.raises(HilumError, match="was not judged: it is running"):
        show(str(run))
