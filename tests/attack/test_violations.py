"""A child that is stopped at a forbidden call says which it was, with which arguments and where, and ends by it."""

from __future__ import annotations

import asyncio

import msgspec

from cloister import ends
from cloister.cli.attack import _attacker
from cloister.cli.targets import targets
from cloister.errors import ChannelClosed
from cloister.interfaces.attack import PreloadOptions, Targets, Try
from cloister.interfaces.zygote import PreloadKind
from cloister.process import ChildProcess, Zygote
from cloister.process.crash_report import CrashReport
from cloister.process.kinds import MODULES

KIND = "image_decoder"


async def _caught(at: Targets, attempt: str) -> ChildProcess:
    options = msgspec.msgpack.encode(PreloadOptions(MODULES[KIND], b""))
    zygote = await Zygote.start([PreloadKind(KIND, "cloister.attack.inside", options)])
    try:
        async with _attacker(zygote, KIND, at) as (process, connection):
            try:
                await connection.request(Try(attempt), timeout=10)
            except ChannelClosed:
                await process.wait(10)
            return process
    finally:
        await zygote.close()


def test_a_live_child_ends_by_its_violation_and_tells_all_of_it() -> None:
    with targets() as at:
        process = asyncio.run(_caught(at, "trace another process"))
        end = process.ending
        assert isinstance(end, ends.SandboxViolation)
        assert end.syscall == "ptrace"
        assert end.arguments is not None
        request, pid, *_ = end.arguments.split(",")
        assert (int(request, 16), int(pid, 16)) == (0x4206, at.victim)  # PTRACE_SEIZE
    assert process.last_words is not None
    report = CrashReport.of(kind=KIND, pid=process.pid, end=end, trace=process.last_words.text)
    assert (report.signal, report.syscall) == ("SIGSYS", "ptrace")
    assert report.end["arguments"] == end.arguments
    assert "Stack (most recent call first):" in report.trace
    assert "in trace_another_process" in report.trace
