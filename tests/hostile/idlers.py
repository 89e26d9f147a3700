"""Callers who take places and time: silent, idle, or slow."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hilum.settings import settings
from tests.hostile.wire import ATTACKER, COMMAND, LAST, Caller, p_data, storage, store_command
from tests.integration.radiographs import radiograph
from tests.peers.scu import Parcel, parcel

STILL_OPEN = "still open"
HELD_S = 5.0
_BYTE_EVERY_S = 1.0
_MORE_THAN_ALL = 10
_OF_EACH_KIND = 10
_DIALS_AGAIN = 5
"""Silent connections that are opened anew every tenth of a second, where the listener has closed some."""


@contextmanager
def silent_connections(port: int, count: int) -> Iterator[None]:
    """Hold so many connections on which nothing is asked for, and open closed ones again."""
    stopped = threading.Event()
    with ExitStack() as stack:
        silent = [stack.enter_context(Caller(port)) for _ in range(count)]
        thread = threading.Thread(target=_keep_open, args=(port, silent, stopped), daemon=True)
        thread.start()
        yield
        stopped.set()
        thread.join()
        for each in silent:
            each.close()


def idle_associations(port: int) -> Counter[str]:
    """Hold more associations than there may be, for a while; what became of them."""
    image, until = parcel(radiograph()), time.monotonic() + HELD_S
    with ExitStack() as stack:
        callers = []
        for _ in range(settings().max_associations + _MORE_THAN_ALL):
            callers.append(stack.enter_context(Caller(port)))
            callers[-1].send(storage(image.sop_class_uid))
        answers = Counter(each.answer(10) for each in callers)
        while time.monotonic() < until:
            time.sleep(0.1)
        return answers


def slow_senders(port: int) -> Counter[str]:
    """Send a byte a second at every stage until the listener has cut all off; how that ended."""
    image = parcel(radiograph())
    answers: Counter[str] = Counter()
    until = time.monotonic() + 4 * settings().idle_timeout_s + 10
    with ExitStack() as stack:
        slow = [
            (stack.enter_context(_began(port, beginning)), bytearray(rest))
            for beginning, rest in _stages(image)
            for _ in range(_OF_EACH_KIND)
        ]
        while slow and time.monotonic() < until:
            slow = [each for each in slow if _goes_on(*each, answers)]
            time.sleep(_BYTE_EVERY_S)
        answers[STILL_OPEN] += len(slow)
    return +answers


def _stages(image: Parcel) -> list[tuple[list[bytes], bytes]]:
    """What is sent at once, and what byte by byte: a request, a command, an object in one PDU and in many."""
    begin, request = storage(image.sop_class_uid), store_command(image.sop_class_uid, image.uid)
    command, data = p_data(1, LAST | COMMAND, request), p_data(1, LAST, image.content)
    crumbs = b"".join(p_data(1, 0, bytes([byte])) for byte in image.content[:500])
    return [([], begin), ([begin], command), ([begin, command], data), ([begin, command], crumbs)]


def _began(port: int, beginning: list[bytes]) -> Caller:
    caller = Caller(port, ATTACKER)
    for number, each in enumerate(beginning):
        caller.send(each)
        if number == 0:
            caller.answer(10)
    return caller


def _goes_on(caller: Caller, rest: bytearray, answers: Counter[str]) -> bool:
    """Send the next byte; False, and counted, when the listener has hung up."""
    sent = caller.send(bytes(rest[:1]))
    del rest[:1]
    answer = caller.answer(0.001) if sent else "closed"
    if answer == "silence":
        return True
    answers[answer] += 1
    return False


def _keep_open(port: int, silent: list[Caller], stopped: threading.Event) -> None:
    while not stopped.wait(0.1):
        closed = [number for number, each in enumerate(silent) if each.answer(0.0) == "closed"]
        for number in closed[:_DIALS_AGAIN]:
            silent[number].close()
            silent[number] = Caller(port)
