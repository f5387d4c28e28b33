"""What ``cloister doctor --attack`` prints: a line for each attempt, a column for each kind of process."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloister.sandbox import NAMESPACES, Layer

from . import attack
from .attack import COLUMNS, Cell, Progress, Survey, Verdict

__all__ = ["run", "show"]

_LETTERS: Final[dict[str, tuple[str, frozenset[Layer]]]] = {
    "S": ("seccomp", frozenset({Layer.SECCOMP})),
    "L": ("Landlock", frozenset({Layer.LANDLOCK, Layer.LANDLOCK_NETWORK, Layer.LANDLOCK_SCOPE})),
    "N": ("a namespace", NAMESPACES),
    "R": ("the empty root", frozenset({Layer.EMPTY_ROOT})),
    "C": ("no capabilities", frozenset({Layer.CAPABILITIES})),
    "U": ("nobody's user", frozenset({Layer.UNPRIVILEGED_USER})),
    "X": ("no executable memory", frozenset({Layer.NO_EXECUTABLE_MEMORY})),
    "M": ("limits", frozenset({Layer.LIMITS})),
    "D": ("closed descriptors", frozenset({Layer.DESCRIPTORS})),
    "K": ("no keys of the session", frozenset({Layer.OWN_KEYRING})),
    "E": ("a bare environment", frozenset({Layer.ENVIRONMENT})),
    "P": ("no new privileges", frozenset({Layer.NO_NEW_PRIVILEGES})),
}
"""In a cell there is no room for more than a letter for each layer."""


def run(*, as_json: bool) -> int:
    """Attack, and print what came of it: 3 if anything got through."""
    with _progress() as on_progress:
        found = attack.survey(on_progress=on_progress)
    if as_json:
        print(json.dumps(_for_scripts(found), indent=2))
    else:
        show(found, Console())
    return 3 if found.through else 0


@contextmanager
def _progress() -> Iterator[Progress]:
    """How far it is, on standard error, when somebody is there to see it."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    with Console(stderr=True).status("") as status:
        yield lambda done, of: status.update(status=Text(f"{done} of {of} attempts"))


def _for_scripts(found: Survey) -> dict[str, object]:
    return {
        "kinds": COLUMNS,
        "attempts": [dataclasses.asdict(row) for row in found.rows],
        "denied": found.count(Verdict.DENIED),
        "alone": found.alone,
        "allowed": found.count(Verdict.ALLOWED),
        "absent": found.count(Verdict.ABSENT),
        "through": [{"attempt": name, "kind": kind} for name, kind in found.through],
    }


def show(found: Survey, console: Console) -> None:
    """Print it as a table, grouped by the harm that would be done."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    for kind in COLUMNS:
        table.add_column(_heading(kind), no_wrap=True)
    used: set[Layer] = set()
    for harm, rows in itertools.groupby(found.rows, lambda row: row.harm):
        table.add_row(Text(harm, "bold"))
        for row in rows:
            table.add_row(f"  {row.name}", *(_cell(row.cells[kind]) for kind in COLUMNS))
            used.update(*(cell.layers for cell in row.cells.values()))
        table.add_row()
    console.print(table)
    kinds = ", ".join(f"{_heading(kind)} {kind}" for kind in COLUMNS)
    letters = ", ".join(f"{letter} {words}" for letter, (words, layers) in _LETTERS.items() if layers & used)
    console.print(Text(f"Columns: {kinds}.\n", "dim"))
    console.print(
        Text(f"Denied by: {letters}; the layer that did, then the one that would have. 1 means that no other would "
             "have. May: it is there for that. –: this kernel does not have it.\n", "dim")
    )  # fmt: skip
    console.print(_summary(found))
    for name, kind in found.through:
        console.print(Text(f"{kind} could {name}", "bold red"))


_SHORT: Final = {
    "web_content": "web",
    "request_server": "req",
    "lookup_server": "look",
    "image_decoder": "img",
    "plugin_host": "plug",
    "zygote": "zyg",
}


def _heading(kind: str) -> str:
    """``web`` for web_content, ``z:web`` for the zygote's branch that forks it."""
    child = kind.removeprefix("zygote of ")
    return _SHORT[child] if child == kind else f"z:{_SHORT[child]}"


def _cell(cell: Cell) -> Text:
    if cell.verdict is Verdict.THROUGH:
        return Text("✗✗✗", "bold red")
    if cell.verdict is Verdict.ALLOWED:
        return Text("may", "cyan")
    if cell.verdict is Verdict.ABSENT:
        return Text("–", "dim")
    letters = "".join(_letter(layer) for layer in cell.layers)
    return Text(f"{letters} 1", "yellow") if cell.alone else Text(letters, "green")


def _letter(layer: Layer) -> str:
    return next((letter for letter, (_, layers) in _LETTERS.items() if layer in layers), "?")


def _summary(found: Survey) -> Text:
    denied, alone = found.count(Verdict.DENIED), found.alone
    parts = [
        f"{len(found.rows)} attempts by {len(COLUMNS)} kinds of process",
        f"{denied} denied",
        f"{alone} of them by a layer that is the only one",
        f"{found.count(Verdict.ALLOWED)} allowed by design",
    ]
    if absent := found.count(Verdict.ABSENT):
        parts.append(f"{absent} not in this kernel")
    through = len(found.through)
    tail = f"{through} got through" if through else "none got through"
    return Text(f"{parts[0]}: {', '.join([*parts[1:], tail])}.", "bold red" if through else "green")
