"""The demo's report for a person. Every word from a page is foreign and goes to the terminal as text, not markup."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cloister.errors import printable

from .show import Process, Report, Visit

__all__ = ["show"]

# What each kind of process is there for; everything else is closed to it.
MAY = {
    "browser": "what you may: it is your program; parses nothing foreign",
    "zygote": "fork the others, which then have their libraries already; no network, no files",
    "web_content": "answer on its channels, paint into its bitmap",
    "request_server": "read and write connections that were handed to it; cannot make one",
    "lookup_server": "resolve names and connect, after the address policy",
    "image_decoder": "decode one image, then end",
}


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    good = [visit for visit in report.visits if not visit.tried]
    hostile = [visit for visit in report.visits if visit.tried]
    console.print(
        f"{len(good)} good pages and {len(hostile)} hostile ones, opened side by side\n", style="bold"
    )
    console.print(_good(good))
    console.print()
    console.print(_hostile(hostile))
    console.print(_attempts(report))
    console.print(_canary(report))
    console.print(_tree(report.processes))
    console.print()
    _killed(report, console)
    _closing(report, console)


def _mark(held: bool) -> Text:
    return Text("✓ ", "green") if held else Text("✗ ", "bold red")


def _good(visits: list[Visit]) -> Table:
    table = Table.grid(padding=(0, 2))
    for visit in visits:
        name = Text.assemble(_mark(visit.held), visit.name)
        table.add_row(name, Text(printable(visit.words)), _took(visit))
    return table


def _hostile(visits: list[Visit]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0), header_style="dim")
    for title in ("", "tried", "and then"):
        table.add_column(title, overflow="fold")
    for visit in visits:
        ending = "the page was shown without it" if visit.outcome == "shown" else printable(visit.words, 160)
        name = Text.assemble(_mark(visit.held), (visit.name, "bold"))
        table.add_row(name, visit.tried, Text.assemble((ending, "yellow"), "  ", _took(visit)))
    return table


def _took(visit: Visit) -> Text:
    return Text(f"{visit.milliseconds} ms", "dim")


def _attempts(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("the reaching page asked for", overflow="fold")
    table.add_column("refused, because", overflow="fold", style="yellow")
    for attempt in report.attempts:
        why = attempt.refusal.partition("; to allow it")[0]  # the rest is advice for who wants to allow it
        table.add_row(
            Text(attempt.url), Text(printable(why, 160)) if why else Text("NOTHING DID", "bold red")
        )
    return table


def _canary(report: Report) -> Text:
    reached = len(report.canary)
    words = f"{reached} REQUESTS REACHED IT" if reached else "nobody reached it"
    return Text.assemble(_mark(not reached), f"the service next door counted its visitors: {words}\n")


def _tree(processes: list[Process]) -> Tree:
    """Processes by kind. Layers that all have are named once, and those of a kind where they differ."""
    common = set.intersection(*(set(process.layers) for process in processes)) if processes else set()
    every = [layer for layer in (processes[0].layers if processes else ()) if layer in common]
    tree = Tree(Text.assemble(("browser", "bold"), f"  {MAY['browser']}"))
    tree.add(Text.assemble("each process below is held by ", (", ".join(every), "dim")))
    for kind, members in _by_kind(processes).items():
        branch = tree.add(Text.assemble((kind, "bold"), f"  may {MAY.get(kind, '')}"))
        if more := [layer for layer in members[0].layers if layer not in common]:
            branch.add(Text.assemble("and by ", (", ".join(more), "dim")))
        if members[0].missing:
            branch.add(Text("MISSING " + ", ".join(members[0].missing), "bold red"))
        for process in members:
            page = f"  {printable(process.page, 80)}" if process.page else ""
            branch.add(Text.assemble(("pid ", "dim"), str(process.pid), page))
    return tree


def _by_kind(processes: list[Process]) -> dict[str, list[Process]]:
    kinds: dict[str, list[Process]] = {}
    for process in processes:
        kinds.setdefault(process.kind, []).append(process)
    return kinds


def _killed(report: Report, console: Console) -> None:
    if (killed := report.killed) is None:
        console.print(Text("✗ the article was not there to be killed", "bold red"))
        return
    going_on = killed.others_alive == killed.others
    line = Text.assemble(
        _mark(going_on), "killed the process of ", (killed.name, "bold"), f" (pid {killed.pid}): ",
        f"{killed.others_alive} of {killed.others} other pages went on; reload() gave it pid {killed.new_pid}",
    )  # fmt: skip
    console.print(line, soft_wrap=True)


def _closing(report: Report, console: Console) -> None:
    files = [Path(name).name for visit in report.visits if (name := visit.file)]
    if report.pdf:
        files.append(Path(report.pdf).name)
    console.print(Text.assemble("wrote ", ", ".join(files), " to ", (report.folder, "bold")), soft_wrap=True)
    left = f"{len(report.left_running)} PROCESSES LEFT" if report.left_running else "nothing is left running"
    verdict = (
        Text("every wall held", "bold green") if report.held else Text("A WALL DID NOT HOLD", "bold red")
    )
    console.print(Text.assemble(verdict, f"; {left}; {report.seconds:.1f} s"))
