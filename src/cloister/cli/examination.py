"""What ``cloister doctor`` finds out: what the kernel offers, and what each kind of process really gets of it."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloister import Browser, NetworkPolicy, Page, ProcessInfo
from cloister.errors import CloisterError, LaunchError, SandboxUnavailable
from cloister.plugins.runtime import PluginRuntime
from cloister.process.kinds import MODULES, OF_PLUGINS, PLUGIN_HOST
from cloister.sandbox import machine

__all__ = ["Examination", "LayerHere", "ProcessHere", "examine", "show"]


_DEADLINE = 5.0  # seconds


@dataclass(frozen=True)
class LayerHere:
    """One layer of the sandbox on this machine. ``since`` is the Linux that first has it."""

    name: str
    available: bool
    since: str
    sentence: str


@dataclass(frozen=True)
class ProcessHere:
    """One kind of process, as it reported itself when it was locked down."""

    kind: str
    layers: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Examination:
    """Everything found. ``refused`` says why ``--allow-degraded`` is needed here, or is empty."""

    kernel: str
    architecture: str
    landlock_abi: int
    layers: tuple[LayerHere, ...]
    processes: tuple[ProcessHere, ...]
    refused: str


def examine() -> Examination:
    """Ask the kernel, then open a page and ask its processes. Raises LaunchError where none comes up at all."""
    here = machine()
    try:
        processes, refused = _processes(allow_degraded=False), ""
    except SandboxUnavailable as error:
        processes, refused = _processes(allow_degraded=True), str(error)
    return Examination(
        here.kernel,
        here.architecture,
        here.landlock_abi,
        tuple(LayerHere(s.layer.value, s.available, s.since, s.sentence) for s in here.layers),
        processes,
        refused,
    )


def _processes(*, allow_degraded: bool) -> tuple[ProcessHere, ...]:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Browser(network=NetworkPolicy(allow_cidrs=["127.0.0.1"]), allow_degraded=allow_degraded) as browser,
    ):
        # A page that waits for an answer has every kind of process.
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        page = browser.new_page()
        failures: list[CloisterError] = []
        waiting = threading.Thread(target=_load_in_vain, args=(page, url, failures))
        waiting.start()
        try:
            return (*_all_kinds(browser, failures), _of_plugins(allow_degraded=allow_degraded))
        finally:
            page.close()
            waiting.join()


def _of_plugins(*, allow_degraded: bool) -> ProcessHere:
    with PluginRuntime(allow_degraded=allow_degraded) as runtime:
        report = runtime.load_source("", "doctor").report
    return ProcessHere(PLUGIN_HOST, report.layers, report.missing)


def _load_in_vain(page: Page, url: str, failures: list[CloisterError]) -> None:
    try:
        page.goto(url, timeout=_DEADLINE * 1000)
    except CloisterError as error:
        failures.append(error)


def _all_kinds(browser: Browser, failures: list[CloisterError]) -> tuple[ProcessHere, ...]:
    """One process of each kind that pages have. Raises LaunchError when one does not come up."""
    end = time.monotonic() + _DEADLINE
    while True:
        failed = bool(failures)  # asked first: what fails may have come up before
        kinds: dict[str, ProcessInfo] = {}
        for info in browser.processes():
            kinds.setdefault(info.kind, info)
        if not (absent := MODULES.keys() - OF_PLUGINS - kinds.keys()):
            return tuple(ProcessHere(kind, tuple(i.layers), tuple(i.missing)) for kind, i in kinds.items())
        if failed or time.monotonic() > end:
            why = failures[0] if failures else f"not within {_DEADLINE:g} s"
            raise LaunchError(f"{', '.join(sorted(absent))} did not come up: {why}")
        time.sleep(0.01)


def show(found: Examination) -> None:
    """Print it as one table: a line for each layer, a column for each kind of process."""
    console = Console()
    abi = f"Landlock version {found.landlock_abi}" if found.landlock_abi else "no Landlock"
    console.print(Text(f"Linux {found.kernel} on {found.architecture}, {abi}\n"))
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("layer", vertical="bottom", no_wrap=True)
    table.add_column("since\nLinux", justify="right")
    for process in found.processes:
        table.add_column(process.kind.replace("_", "\n"), justify="center", vertical="bottom")
    meanings = Table.grid(padding=(0, 2))
    for layer in found.layers:
        table.add_row(layer.name, layer.since, *(_cell(layer.name, process) for process in found.processes))
        meanings.add_row(layer.name, Text(layer.sentence, "" if layer.available else "yellow"))
    console.print(table)
    console.print(
        Text("\n✓ in force   ✗ wanted, and not to be had here   · not meant for this process\n", "dim")
    )
    console.print(meanings)
    if found.refused:
        console.print(Text(f"\n{found.refused}", "bold red"))
    else:
        console.print(Text("\nEvery process gets all that it requires.", "green"))


def _cell(layer: str, process: ProcessHere) -> Text:
    if layer in process.layers:
        return Text("✓", "green")
    return Text("✗", "bold red") if layer in process.missing else Text("·", "dim")
