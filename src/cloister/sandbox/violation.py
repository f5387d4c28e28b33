"""What happens at a forbidden system call: a report on standard error, then death by SIGSYS.

The filter traps, the kernel sends SIGSYS, the handler here names the call and shows Python's stack, and traps again,
on purpose: by then the action is the default, as the kernel resets it before it runs the handler (SA_RESETHAND) and
the filter lets nobody set it anew. So however far the handler gets, the next forbidden call is the last.

With ``CLOISTER_SANDBOX_LOG=1`` in the environment of the program, what is denied quietly is told as well. Then such a
call traps too, its errno in siginfo; the handler stays, writes a line, and lets the call fail with that errno. A
forbidden call in it still ends the process: its own signal is blocked in a handler, and what traps under a blocked
SIGSYS the kernel kills (force_sig_info_to_task, kernel/signal.c).
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from typing import Any, Final

from .kernel import libc
from .syscalls import Architecture, native

__all__ = ["handler", "install", "logs_probes"]

_SA_SIGINFO: Final = 0x4
_SA_NODEFER: Final = 0x40000000
_SA_RESETHAND: Final = 0x80000000

# struct ucontext up to the registers, in 64-bit words. x86-64 (arch/x86/include/uapi/asm/sigcontext.h): flags,
# link, stack[3], then r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx; arguments are rdi rsi rdx r10 r8 r9.
# aarch64 (arch/arm64/include/uapi/asm/ucontext.h): flags, link, stack[3], a mask of 128 bytes, fault_address,
# aligned to 16 bytes, then x0 …
_ARGUMENT_WORDS: Final = {
    "x86_64": (13, 14, 17, 7, 5, 6),
    "aarch64": (23, 24, 25, 26, 27, 28),
}
_RESULT_WORD: Final = {"x86_64": 18, "aarch64": 23}  # rax; x0


class _SigInfo(ctypes.Structure):
    """siginfo_t of a SIGSYS."""

    _fields_ = (
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("call_addr", ctypes.c_void_p),
        ("call", ctypes.c_int),
        ("arch", ctypes.c_uint),
    )


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_SigInfo), ctypes.POINTER(ctypes.c_uint64))


class _SigAction(ctypes.Structure):
    """struct sigaction of glibc and musl (not the kernel's, whose fields are in another order)."""

    _fields_ = (
        ("handler", _Handler),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_kind = "process"


def logs_probes() -> bool:
    """Whether quiet denials are told as well: what the environment said when this process, or the one that it was
    forked from, loaded this module. Lock-down empties the environment."""
    return _logs_probes


def install(kind: str) -> None:
    """Set the action of SIGSYS for this process, a ``kind``, and for what it forks.

    Call it before lock-down: no memory may become executable afterwards, and a callback needs such memory.

    Raises:
        OSError: the kernel refused.
    """
    global _kind  # noqa: PLW0603 - a signal handler has no other way to learn it
    _kind = kind
    flags = _SA_SIGINFO if logs_probes() else _SA_SIGINFO | _SA_NODEFER | _SA_RESETHAND
    action = _SigAction(handler=handler, flags=ctypes.c_int(flags).value)
    if libc.sigaction(int(signal.SIGSYS), ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "sigaction(SIGSYS)")


def describe(
    what: str, kind: str, architecture: Architecture, number: int, arguments: tuple[int, ...]
) -> str:
    """The line that tells of a call: numbers and names of Cloister's own, nothing foreign."""
    name = architecture.name_of(number)
    shown = ",".join(f"{argument:#x}" for argument in arguments)
    return f"cloister: sandbox {what}: kind={kind} syscall={name} args={shown}\n"


def _on_trap(_signal: int, info: Any, context: Any) -> None:
    if info[0].errno and _logs_probes:
        _fail_quietly(info, context)
        return
    try:
        _tell("violation", info, context)
        faulthandler.dump_traceback(2, all_threads=False)
    finally:
        # Not raise(SIGSYS): the first process of a pid namespace survives what it sends itself, but not a trap.
        libc.syscall(_ALWAYS_FORBIDDEN)
        os._exit(128 + signal.SIGSYS)


def _fail_quietly(info: Any, context: Any) -> None:
    _tell(f"denial ({os.strerror(info[0].errno)})", info, context)
    if _architecture is not None:
        context[_RESULT_WORD[_architecture.name]] = 2**64 - info[0].errno


def _tell(what: str, info: Any, context: Any) -> None:
    if _architecture is not None:
        arguments = tuple(context[word] for word in _ARGUMENT_WORDS[_architecture.name])
        os.write(2, describe(what, _kind, _architecture, info[0].call, arguments).encode())


_logs_probes = os.environ.get("CLOISTER_SANDBOX_LOG") == "1"
_architecture = native()
# Taken out of Linux in 3.1, so no group has it, and without a filter it does nothing.
_ALWAYS_FORBIDDEN: Final = ctypes.c_long(_architecture.numbers["nfsservctl"] if _architecture else -1)
# Kept for the life of the process: the kernel holds its address.
handler: Final = _Handler(_on_trap)
"""The action of SIGSYS, as C has it."""
