"""The processes that train together, and what stops them."""

import signal
import threading

import pytest

from tests.unit import recipes
from training.recipe import RecipeError

torch = pytest.importorskip("torch")

from training import crew  # noqa: E402 - they need torch
from training.crew import Interruption, assembled  # noqa: E402


def test_one_process_takes_all_batches_and_decides() -> None:
    with assembled(recipes.tiny()) as alone:
        assert (alone.rank, list(alone.own(3))) == (0, [0, 1, 2])
        assert alone.any(True)
        assert not alone.any(False)
        assert alone.of_first(0.5) == 0.5


def test_processes_that_cannot_share_a_step_s_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(RecipeError, match="4 processes cannot share 2 batches a step"),
        assembled(recipes.tiny()),
    ):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RecipeError, match="more processes than GPUs, 1 here"), assembled(recipes.tiny()):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_and_a_later_one_is_obeyed(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    obeyed = []
    before = signal.signal(number, lambda *_: obeyed.append(number))
    try:
        with Interruption() as interruption:
            assert not interruption.asked
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert interruption.asked
            assert not obeyed
            monkeypatch.setattr(crew, "_INSISTS_S", 0.0)
            signal.raise_signal(number)
            assert obeyed == [number]
        signal.raise_signal(number)
        assert obeyed == [number, number]
    finally:
        signal.signal(number, before)


def test_a_thread_that_is_not_the_main_one_listens_to_nobody() -> None:
    seen, before = [], signal.getsignal(signal.SIGINT)

    def train() -> None:
        with Interruption() as interruption:
            seen.append(interruption.asked)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is before
