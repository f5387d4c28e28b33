"""What ``cloister doctor --policy KIND`` prints: what a kind of process may do, in words that a person can check."""

from __future__ import annotations

import subprocess
import sys

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cloister.errors import LaunchError, printable
from cloister.sandbox.describe import Description
from cloister.sandbox.limits import Limits

__all__ = ["describe", "show"]

_DEADLINE = 20.0  # seconds; it takes about 0.1
_MIB = 1024 * 1024


def describe(kind: str) -> Description:
    """What a ``kind`` may do. Raises LaunchError when the process that knows it does not answer."""
    module = "cloister.sandbox.zygote" if kind == "zygote" else f"cloister.{kind}.sandbox"
    command = [sys.executable, "-P", "-m", "cloister.sandbox.describe", module]
    try:
        asked = subprocess.run(  # noqa: S603 - this very Python
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, check=True
        )
        return msgspec.json.decode(asked.stdout, type=Description)
    except subprocess.CalledProcessError as error:
        said = printable(error.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise LaunchError(f"the policy of {kind} could not be read: {said}") from error
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        raise LaunchError(f"the policy of {kind} could not be read: {error}") from error


def show(kind: str, *, as_json: bool) -> None:
    """Print it on standard output."""
    found = describe(kind)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    console = Console()
    some = set(found.calls_by_arguments)
    console.print(
        Text.assemble(
            (kind, "bold"),
            f" may make {len(found.calls)} of {found.calls_of_the_kernel} system calls"
            f" ({found.architecture}), {len(some)} of them with some arguments only (*).\n"
            f"{len(found.fail_quietly)} more, or those with other arguments, fail quietly, as libraries try them"
            f" and do without; any other {'fails too' if found.others_fail else 'ends the process'}.",
        )
    )
    if kind == "zygote":
        console.print(
            Text("For each kind of child it keeps a process that may do what that kind may as well.")
        )
    for purpose in found.purposes:
        console.print(Text(f"\n{purpose.group}", "bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(max_width=44)
        table.add_column()
        for reason in purpose.reasons:
            calls = " ".join(f"{call}*" if call in some else call for call in reason.calls)
            table.add_row(calls, Text(reason.why, "dim"))
        console.print(Padding(table, (0, 0, 0, 2)))
    console.print()
    rest = Table.grid(padding=(0, 2))
    rest.add_column(no_wrap=True, style="bold")
    rest.add_row("files", Text(", ".join(found.read_paths) + " (reading)" if found.read_paths else "none"))
    if found.programs.paths:
        rest.add_row("", Text(", ".join(found.programs.paths) + " (reading, and running as programs)"))
        rest.add_row("devices", Text(", ".join(found.programs.devices)))
    rest.add_row("network", Text(_network(found)))
    rest.add_row("limits", Text(_limits(found.limits)))
    rest.add_row("namespaces", Text(", ".join(name.removesuffix("_namespace") for name in found.namespaces)))
    console.print(rest)


def _network(found: Description) -> str:
    if found.connects:
        return "connects TCP sockets and sends UDP, and hands connected sockets on"
    groups = {purpose.group for purpose in found.purposes}
    return "the sockets that it is handed, connected" if "inherited_sockets" in groups else "none"


def _limits(limits: Limits) -> str:
    """Those that are set, as a sentence."""
    sizes = {"mapped": limits.address_space, "of heap": limits.data, "in one memfd": limits.file_size}
    said = [f"{size // _MIB} MiB {what}" for what, size in sizes.items() if size is not None]
    if limits.open_files is not None:
        said.append(f"{limits.open_files} descriptors")
    if limits.processes is not None:
        said.append(f"{limits.processes or 'no'} processes or threads more")
    if limits.cpu_seconds is not None:
        said.append(f"{limits.cpu_seconds} s of processor time")
    return ", ".join(said)
