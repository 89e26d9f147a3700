"""What broke the listener's promises once, each by itself."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from db.schema import upgrade
from db.session import engine
from tests.hostile.wire import (
    COMMAND,
    GENUINE,
    LAST,
    RELEASE,
    VERIFICATION,
    Caller,
    associate,
    command,
    echo_command,
    p_data,
    storage,
    store_command,
    store_message,
)
from tests.integration.radiographs import radiograph
from tests.peers.helpers import wait_for
from tests.peers.listener import Listener
from tests.peers.scu import Parcel, parcel

PLACES = 6
IDLE_S = 8.0


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One listener that must outlive everything that is sent to it here."""
    folder = tmp_path_factory.mktemp("listener")
    upgrade(f"sqlite:///{folder / 'hilum.sqlite'}")
    running = Listener(folder, max_associations=PLACES, idle_timeout_s=IDLE_S)
    yield running
    assert running.process.poll() is None, running.log
    running.stop()
    engine(running.database_url).dispose()


@pytest.fixture
def image() -> Parcel:
    return parcel(radiograph())


def called(listener: Listener, image: Parcel, address: str) -> Caller:
    """An association, accepted once there is a place for it."""
    caller = wait_for(lambda: _accepted(listener, image, address), 10, "a place")
    assert caller is not None
    return caller


def _accepted(listener: Listener, image: Parcel, address: str) -> Caller | None:
    caller = Caller(listener.port, address)
    caller.send(storage(image.sop_class_uid))
    if caller.answer(5) == "accepted":
        return caller
    caller.close()
    return None


def genuine(listener: Listener) -> list[str]:
    """The answers to somebody who does as all should."""
    image = parcel(radiograph())
    with Caller(listener.port, GENUINE) as caller:
        steps = [storage(image.sop_class_uid), store_message(image.sop_class_uid, image.uid, image.content)]
        return [caller.answer(5) for step in [*steps, RELEASE] if caller.send(step)]


def requests(image: Parcel) -> dict[str, tuple[int, bytes]]:
    """C-STORE requests that no client would send: presentation context, command."""
    usual: dict[int, bytes | int | str] = {
        0x0002: image.sop_class_uid,
        0x0100: 1,
        0x0110: 1,
        0x0700: 0,
        0x0800: 1,
        0x1000: image.uid,
    }

    def without(element: int, also: dict[int, bytes | int | str] | None = None) -> bytes:
        return command({number: usual[number] for number in usual.keys() - {element}} | (also or {}))

    return {
        "without a message id": (1, without(0x0110)),
        "without a class": (1, without(0x0002)),
        "without an instance": (1, without(0x1000)),
        "with an instance of 400 characters": (1, command(usual | {0x1000: "1." * 200 + "1"})),
        "among C-ECHOs": (3, store_command(VERIFICATION, image.uid)),
        "among C-ECHOs, which is an answer, too": (3, store_command(VERIFICATION, image.uid, x0120=1)),
        "that is only an answer": (1, without(0x0110, also={0x0120: 1})),
    }


@pytest.mark.parametrize("wrong", requests(Parcel("1.2", "1.2", b"")))
def test_a_request_that_cannot_be_served_ends_the_association_and_leaves_no_file(
    listener: Listener, image: Parcel, wrong: str
) -> None:
    context_id, request = requests(image)[wrong]
    with called(listener, image, GENUINE) as caller:
        caller.send(p_data(context_id, LAST | COMMAND, request) + p_data(context_id, LAST, image.content))
        assert caller.answer(2) == "aborted"
    wait_for(lambda: not listener.files("aside"), 10, "the file's end")


def test_requests_that_wait_for_their_turn_leave_no_file_when_the_caller_is_gone(
    listener: Listener, image: Parcel
) -> None:
    messages = [store_message(image.sop_class_uid, image.uid, image.content, number=n) for n in range(1, 8)]
    with called(listener, image, GENUINE) as caller:
        caller.send(b"".join(messages))
        caller.close(rudely=True)
    wait_for(lambda: not listener.files("aside"), 10, "the files' end")


def test_who_fills_all_places_keeps_no_other_address_out(listener: Listener, image: Parcel) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(called(listener, image, "127.0.0.1")) for _ in range(PLACES)]
        began = time.monotonic()
        wait_for(lambda: genuine(listener) == ["accepted", "0x0000", "released"], 5, "a place")
        assert time.monotonic() - began < 5
        assert callers[0].answer(1) == "closed", "the one that was idle for longest gives way"


def test_who_has_as_few_places_as_the_next_keeps_them(listener: Listener, image: Parcel) -> None:
    with ExitStack() as stack:
        for number in range(PLACES):
            stack.enter_context(called(listener, image, f"127.0.1.{number}"))
        time.sleep(2.1)  # as long as it takes to count as idle
        assert genuine(listener)[0] == "rejected"


def test_a_caller_who_only_trickles_is_cut_off(listener: Listener, image: Parcel) -> None:
    with called(listener, image, GENUINE) as caller:
        request = store_command(image.sop_class_uid, image.uid)
        caller.send(p_data(1, LAST | COMMAND, request))
        until = time.monotonic() + 3 * IDLE_S
        while caller.send(p_data(1, 0, b"x")) and caller.answer(0.2) == "silence":
            assert time.monotonic() < until, "a byte now and then holds the place for ever"
    wait_for(lambda: not listener.files("aside"), 10, "the file's end")


def test_idle_associations_cost_next_to_nothing(listener: Listener, image: Parcel) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(called(listener, image, "127.0.0.1")) for _ in range(PLACES)]
        time.sleep(1.1)  # until they count as quiet
        before_s, began = listener.processor_s, time.monotonic()
        time.sleep(1)
        share = (listener.processor_s - before_s) / (time.monotonic() - began)
        assert share < 0.05
        callers[0].send(p_data(3, LAST | COMMAND, echo_command()))
        assert callers[0].answer(1) == "0x0000"


@pytest.mark.parametrize("again", [storage("1.2.840.10008.1.1"), p_data(1, LAST, b"x"), RELEASE])
def test_a_caller_who_does_not_wait_for_the_answer_is_cut_off(
    listener: Listener, image: Parcel, again: bytes
) -> None:
    for _ in range(10):  # whether the answer or the second request comes first is a race
        with Caller(listener.port) as caller:
            caller.send(storage(image.sop_class_uid) + again)
            assert caller.is_closed(5)
    assert "an association broke" not in listener.log


def test_a_proposal_without_transfer_syntaxes_does_not_hold_the_connection(listener: Listener) -> None:
    for nothing in (associate((1, VERIFICATION, [])), associate((1, "", [""]))):
        with Caller(listener.port) as caller:
            caller.send(nothing)
            assert caller.is_closed(IDLE_S / 2)


def test_names_of_callers_cannot_forge_the_log(listener: Listener, image: Parcel) -> None:
    forged = associate((1, image.sop_class_uid, [image.transfer_syntax_uid]), calling=b"A\nB\x1b[2J\x07")
    with Caller(listener.port) as caller:
        caller.send(forged)
        caller.answer(5)
        caller.send(store_message(image.sop_class_uid, image.uid, image.content))
        caller.answer(5)
    wait_for(lambda: "A" in listener.log and not listener.files("aside"), 10, "the end")
    assert all(character.isprintable() for line in listener.log.split("\n") for character in line)
    assert all(line[:2] == "20" for line in listener.log.splitlines()), listener.log


def test_an_object_in_two_presentation_contexts_ends_the_association(
    listener: Listener, image: Parcel
) -> None:
    request = p_data(1, LAST | COMMAND, store_command(image.sop_class_uid, image.uid))
    with called(listener, image, GENUINE) as caller:
        caller.send(request + p_data(3, LAST, image.content))
        assert caller.answer(5) == "aborted"
