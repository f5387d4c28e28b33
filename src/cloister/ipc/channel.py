"""One end of a SOCK_SEQPACKET socketpair: packets with descriptors, no bytes in between, no stream to resync."""

from __future__ import annotations

import array
import errno
import socket

from ..errors import BadMessage, ChannelClosed, descriptors_left
from ..interfaces.base import MAX_PACKET
from .descriptors import NONE, Descriptors

__all__ = ["MAX_DESCRIPTORS", "Channel"]

MAX_DESCRIPTORS = 8
"""Descriptors in one packet. The kernel would take 253 (SCM_MAX_FD); no message of ours needs more than these."""

# Plain integers: Python's enums of flags take 1.3 µs for each operator, which is a fifth of what a packet costs.
_SEND = int(socket.MSG_NOSIGNAL)
_RECEIVE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_DATA_CUT = int(socket.MSG_TRUNC)
_DESCRIPTORS_CUT = int(socket.MSG_CTRUNC)

# What sendmsg(2) says of a peer that is there, and of this system: no memory for a packet, or this user has more
# descriptors in flight than RLIMIT_NOFILE (too_many_unix_fds() in net/core/scm.c), which another process may have done.
_NO_ROOM = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS))

_buffers: list[memoryview] = []
"""For packets, each as long as one is received: by a thread, or by what interrupts it there. One for every channel
would be 17 pages of memory each, which the kernel hands out one at a time: 40 µs."""
_CONTROL_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Channel:
    """A non-blocking packet socket that owns its descriptor.

    Not a message queue and not thread-safe: a :class:`Connection` puts both on top of it. ``peer`` is who is at the
    other end ("web_content:1234"), as far as whoever made it has said so; it is for people to read.
    """

    __slots__ = ("_socket", "peer")

    def __init__(self, fd: int) -> None:
        # Family and type are given so that Python need not ask the kernel: a sandboxed child may not.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self._socket.setblocking(False)
        self.peer = ""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends of a new socketpair, close-on-exec. Raises OutOfDescriptors."""
        with descriptors_left():
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here.detach()), cls(there.detach())

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._socket.fileno()

    def send(self, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> None:
        """Send one packet; the descriptors stay the caller's.

        Raises BlockingIOError while the peer does not read (its errno is EAGAIN) or the system has no room for the
        packet, ChannelClosed when the peer is gone.
        """
        if len(data) > MAX_PACKET or len(fds) > MAX_DESCRIPTORS:
            raise ValueError(f"a packet of {len(data)} bytes and {len(fds)} descriptors is too large to send")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], rights, _SEND)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise BlockingIOError(error.errno, "the system has no room for a packet") from error
            raise ChannelClosed("the other end of the channel is gone") from error

    def receive(self) -> tuple[bytes, Descriptors]:
        """One packet. Raises BlockingIOError when there is none, ChannelClosed at the end, BadMessage when it does
        not fit: what the kernel had to cut off was never ours to accept. Descriptors that this process has no room
        for are ``lost``, which is nobody's fault but its own."""
        try:
            buffer = _buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(MAX_PACKET + 1))
        try:
            return self._receive(buffer)
        finally:
            _buffers.append(buffer)

    def _receive(self, buffer: memoryview) -> tuple[bytes, Descriptors]:
        try:
            try:
                size, control, flags, _ = self._socket.recvmsg_into([buffer], _CONTROL_SPACE, _RECEIVE)
            except ConnectionResetError:
                # Told once, before what waits: the peer went and left packets of ours unread, after it had sent its
                # own (unix_release_sock() in net/unix/af_unix.c). What it said before it went is still to be judged.
                size, control, flags, _ = self._socket.recvmsg_into([buffer], _CONTROL_SPACE, _RECEIVE)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed("the other end of the channel is gone") from error
        fds = Descriptors(_descriptors(control)) if control else NONE
        if flags & _DESCRIPTORS_CUT and len(fds) < MAX_DESCRIPTORS and not flags & _DATA_CUT:
            # There was room in the packet: it was this process's table that had none (scm_detach_fds() in
            # net/core/scm.c). Asking whether it is full would be too late, as other threads close descriptors.
            fds.close()
            fds = Descriptors(lost=True)
        elif flags & (_DATA_CUT | _DESCRIPTORS_CUT) or size > MAX_PACKET:
            fds.close()
            raise BadMessage("a packet came that is too large, or has too many descriptors")
        elif size == 0 and not fds:
            raise ChannelClosed("the other end of the channel is gone")
        return buffer[:size].tobytes(), fds

    def close(self) -> None:
        self._socket.close()

    def detach(self) -> int:
        """Give the descriptor away; the channel is closed without closing it."""
        return self._socket.detach()


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
