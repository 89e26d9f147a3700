"""A way to a peer that can fall silent, as when a firewall forgets connections: not even their end comes."""

import ctypes
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.peers.helpers import free_port

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # socket(7), asm-generic/socket.h
_DROP_ALL = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 0, 0, 0, 0]), 8)  # BPF_RET, 0 bytes
_CHUNK = 1 << 16


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Way:
    """Forwards what comes to `port` to a peer's port; while silent, its packets get lost."""

    def __init__(self, peer_port: int) -> None:
        self.port = free_port()
        self._peer_port = peer_port
        self._open: list[_Connection] = []
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept_for_ever, daemon=True).start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Lose every packet for a while; connections that were open stay silent for ever.

        The peer is told nothing either: what it has begun for a caller, it keeps.
        """
        _drop_packets(self._listening)
        for each in self._open:
            each.fall_silent()
        self._open.clear()
        try:
            yield
        finally:
            self._listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def stop(self) -> None:
        self._listening.close()

    def _accept_for_ever(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # it was closed
                return
            try:
                peer = socket.create_connection(("127.0.0.1", self._peer_port), timeout=5)
            except OSError:  # the peer is away
                caller.close()
                continue
            self._open = [each for each in self._open if not each.is_over]
            self._open.append(_Connection(caller, peer))


class _Connection:
    """A caller and its peer."""

    def __init__(self, caller: socket.socket, peer: socket.socket) -> None:
        peer.settimeout(None)
        self.is_over = False
        self._caller, self._peer = caller, peer
        self._is_silent = False
        for pair in ((caller, peer), (peer, caller)):
            threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def fall_silent(self) -> None:
        self._is_silent = True
        with suppress(OSError):
            _drop_packets(self._caller)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(_CHUNK):
                if not self._is_silent:
                    target.sendall(content)
        if not self._is_silent:
            self.is_over = True
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def _drop_packets(of: socket.socket) -> None:
    """Drop whatever arrives at a socket, before TCP sees it (socket(7), SO_ATTACH_FILTER)."""
    program = _Program(1, ctypes.cast(_DROP_ALL, ctypes.c_void_p))
    of.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
