"""A seccomp filter as classic BPF: an allowlist of calls, each with checks of its arguments.

The program is a straight line with forward skips only: for each call `if number == N: <checks>; return`, then
the default. Calls whose arguments are checked come first: from Linux 5.11 the kernel answers the unconditional
ones from a bitmap without running the program at all.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from .syscalls import Architecture

__all__ = [
    "ALLOW",
    "KILL_PROCESS",
    "OWN_PID",
    "TRAP",
    "Alternative",
    "Check",
    "Program",
    "Rule",
    "assemble",
    "deny",
    "errno_of",
    "told",
]

# include/uapi/linux/seccomp.h
KILL_PROCESS: Final = 0x80000000
TRAP: Final = 0x00030000
ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

# include/uapi/linux/bpf_common.h: load a word, and, jump if equal, jump if greater or equal, return
_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

# struct seccomp_data: nr, arch, instruction_pointer, args[6]; both architectures are little-endian
_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16

_MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
_MAX_SKIP: Final = 255  # a conditional jump's offset is one byte

# Structs here and beside this: a dataclass compiles its methods when it is imported, 0.25 ms for each.

OWN_PID: Final = -1
"""As :attr:`Check.value`: the pid of the process that installs the filter, as :meth:`Program.code` is told it."""


class Check(msgspec.Struct, frozen=True):
    """``argument & mask == value``.

    With a mask of 32 bits (the default) the upper half of the register is not looked at, as the kernel does not
    look at it for an ``int``; give a mask of 64 bits for ``long`` and pointers.
    """

    argument: int
    value: int
    mask: int = 0xFFFFFFFF

    def __post_init__(self) -> None:
        if not 0 <= self.argument <= 5:
            raise ValueError(f"a call has arguments 0 to 5, not {self.argument}")
        if not 0 < self.mask < 2**64:
            raise ValueError(f"mask {self.mask:#x} is not of 1 to 64 bits")
        if self.value == OWN_PID:
            if self.mask != 0xFFFFFFFF:
                raise ValueError("a pid is compared in all of its 32 bits")
        elif self.value < 0 or self.value & ~self.mask:
            raise ValueError(f"{self.value:#x} can never be left by mask {self.mask:#x}")


Alternative = tuple[Check, ...]
"""Checks that must all hold. The empty one always holds."""


class Rule(msgspec.Struct, frozen=True):
    """A call is allowed when one of ``alternatives`` holds, else it gets the action ``otherwise``."""

    alternatives: tuple[Alternative, ...] = ()
    otherwise: int = TRAP

    @property
    def unconditional(self) -> bool:
        return not self.alternatives or () in self.alternatives

    def action(self, arguments: Sequence[int], pid: int) -> int:
        """What a call with ``arguments`` gets in a filter that process ``pid`` installed; those not given are 0."""
        held = any(
            all(_holds(check, arguments, pid) for check in alternative) for alternative in self.alternatives
        )
        return ALLOW if held else self.otherwise


def _holds(check: Check, arguments: Sequence[int], pid: int) -> bool:
    argument = arguments[check.argument] if check.argument < len(arguments) else 0
    return argument & check.mask == (pid if check.value == OWN_PID else check.value)


def errno_of(action: int) -> int | None:
    """The errno that a call fails with by ``action``; 0 when the process ends instead, ``None`` when it is allowed."""
    if action == ALLOW:
        return None
    return action & 0xFFFF if action & 0xFFFF0000 == _ERRNO else 0


def deny(number: int) -> int:
    """The action that makes a call fail with ``errno`` ``number``."""
    return _ERRNO | number


def told(rule: Rule) -> Rule:
    """``rule``, but where it makes a call fail it traps, and the handler of SIGSYS finds the errno in siginfo
    (SECCOMP_RET_DATA)."""
    number = errno_of(rule.otherwise)
    return Rule(rule.alternatives, TRAP | number) if number else rule


class _Instruction(msgspec.Struct, frozen=True):
    code: int
    k: int
    jt: int = 0
    jf: int = 0


class Program:
    """An assembled filter, all but the pid."""

    def __init__(self, instructions: Sequence[_Instruction]) -> None:
        self._code = b"".join(struct.pack("=HBBI", i.code, i.jt, i.jf, max(i.k, 0)) for i in instructions)
        self._pid_offsets = [8 * index + 4 for index, i in enumerate(instructions) if i.k == OWN_PID]

    def code(self, pid: int) -> bytes:
        """The array of ``struct sock_filter`` for process ``pid``."""
        code = bytearray(self._code)
        for offset in self._pid_offsets:
            struct.pack_into("=I", code, offset, pid)
        return bytes(code)


def assemble(architecture: Architecture, rules: Mapping[str, Rule], *, default: int = TRAP) -> Program:
    """The program that holds ``rules``, by name of call; ``default`` is for calls that have none.

    A name that ``architecture`` lacks is left out. A call of a foreign ABI (32-bit on a 64-bit kernel) kills the
    process; one of x32 fails with ENOSYS, as on a kernel without it.

    Raises:
        ValueError: the rules do not fit in a program.
    """
    program = [
        _Instruction(_LOAD, _ARCH),
        _Instruction(_JUMP_EQUAL, architecture.audit, jt=1),
        _Instruction(_RETURN, KILL_PROCESS),
        _Instruction(_LOAD, _NUMBER),
    ]
    if architecture.x32_bit:
        program.append(_Instruction(_JUMP_AT_LEAST, architecture.x32_bit, jf=1))
        program.append(_Instruction(_RETURN, deny(errno.ENOSYS)))
    for name, rule in sorted(rules.items(), key=lambda item: item[1].unconditional):
        if name in architecture.numbers:
            block = _block(rule)
            if len(block) > _MAX_SKIP:
                raise ValueError(f"the checks of {name} take {len(block)} instructions: {_MAX_SKIP} at most")
            program.append(_Instruction(_JUMP_EQUAL, architecture.numbers[name], jf=len(block)))
            program.extend(block)
    program.append(_Instruction(_RETURN, default))
    if len(program) > _MAX_INSTRUCTIONS:
        raise ValueError(f"the filter takes {len(program)} instructions: {_MAX_INSTRUCTIONS} at most")
    return Program(program)


def _block(rule: Rule) -> list[_Instruction]:
    """Every path through it returns, so what follows may count on the number still being loaded."""
    if rule.unconditional:
        return [_Instruction(_RETURN, ALLOW if rule.alternatives else rule.otherwise)]
    block: list[_Instruction] = []
    for alternative in rule.alternatives:
        block += _alternative(alternative)
    return [*block, _Instruction(_RETURN, rule.otherwise)]


def _alternative(alternative: Alternative) -> list[_Instruction]:
    words = [word for check in alternative for word in _words(check)]
    # Where each test jumps when it fails is known once the length is, so build from the end.
    block = [_Instruction(_RETURN, ALLOW)]
    for offset, mask, value in reversed(words):
        block.insert(0, _Instruction(_JUMP_EQUAL, value, jf=len(block)))
        if mask != 0xFFFFFFFF:
            block.insert(0, _Instruction(_AND, mask))
        block.insert(0, _Instruction(_LOAD, offset))
    return block


def _words(check: Check) -> list[tuple[int, int, int]]:
    """``(offset, mask, value)`` of each 32-bit half that ``check`` looks at: BPF's registers have 32 bits."""
    offset = _ARGUMENTS + 8 * check.argument
    if check.value == OWN_PID:
        return [(offset, 0xFFFFFFFF, OWN_PID)]
    low = (offset, check.mask & 0xFFFFFFFF, check.value & 0xFFFFFFFF)
    high = (offset + 4, check.mask >> 32, check.value >> 32)
    return [half for half in (low, high) if half[1]]
