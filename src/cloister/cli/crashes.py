"""The command that shows what is known of processes that ended as they should not have."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from cloister.errors import CloisterError, printable
from cloister.process.crashes import CrashReport, CrashStore

from . import output

__all__ = ["clear", "list_reports", "show"]


def list_reports(arguments: Namespace) -> int:
    """``cloister crashes list``."""
    reports = CrashStore().list()
    if arguments.json:
        return _print(_json(reports))
    if not reports:
        return _print("There are no crash reports.")
    head = ("id", "time (UTC)", "kind", "site or plugin", "the process …")
    rows = [head, *((r.id, _time(r), r.kind, r.site or r.plugin or "-", r.sentence) for r in reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    return _print("\n".join("  ".join(map(str.ljust, row, widths)) for row in rows))


def show(arguments: Namespace) -> int:
    """``cloister crashes show``."""
    report = _newest() if arguments.id == "latest" else CrashStore().read(arguments.id)
    return _print(_json(report) if arguments.json else "\n".join(_lines(report)))


def clear(arguments: Namespace) -> int:
    """``cloister crashes clear``: 1 if one that was named is not there; the others are deleted nevertheless."""
    store = CrashStore()
    if not arguments.ids:
        return _deleted(store.clear())
    missing = [id for id in dict.fromkeys(arguments.ids) if not store.clear([id])]
    _deleted(len(set(arguments.ids)) - len(missing))
    if missing:
        raise CloisterError(f"{printable(', '.join(missing), 200)}: there is no such crash report")
    return 0


def _newest() -> CrashReport:
    reports = CrashStore().list()
    if not reports:
        raise CloisterError("there are no crash reports")
    return reports[0]


def _deleted(count: int) -> int:
    return _print(f"{count} crash report{'' if count == 1 else 's'} deleted.")


def _lines(report: CrashReport) -> Iterator[str]:
    """What is foreign and of many lines comes last and indented, so that it cannot pass for the rest."""
    yield f"{report.kind} {report.pid} {report.sentence}"
    yield ""
    use = report.usage
    for name, value in (
        ("id", report.id),
        ("time", f"{_time(report)} UTC"),
        ("site", report.site),
        ("plugin", report.plugin),
        ("end", report.end["type"]),
        ("signal", report.signal),
        ("syscall", report.syscall),
        ("max RSS", _mebibytes(use.max_rss_bytes)),
        ("PSS", _mebibytes(use.pss_bytes)),
        ("cpu", None if use.cpu_seconds is None else f"{use.cpu_seconds:.3g} s"),
        ("age", None if use.age_seconds is None else f"{use.age_seconds:.3g} s"),
        ("open", None if use.open_descriptors is None else f"{use.open_descriptors} descriptors"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("layers", ", ".join(report.layers)),
    ):
        if value:
            yield f"{name:<9} {value}"
    if report.messages:
        yield "messages"
        for direction, name in report.messages:
            yield f"  {'→' if direction == 'sent' else '←'} {name}"
    if report.trace:
        yield "trace"
        for line in report.trace.splitlines():
            yield f"  {line}"


def _time(report: CrashReport) -> str:
    return f"{report.time:%Y-%m-%d %H:%M:%S}"


def _mebibytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**20:.1f} MiB"


def _json(what: CrashReport | list[CrashReport]) -> str:
    """In ASCII: no character of a report can drive a terminal, or be one that a locale lacks."""
    return json.dumps(msgspec.to_builtins(what), indent=2)


def _print(text: str) -> int:
    output.write("-", f"{text}\n".encode())
    return 0
