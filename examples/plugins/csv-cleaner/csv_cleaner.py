"""Takes what is wrong out of CSV files: whatever the encoding and the separator, out come rows of trimmed text, of one
length, under names that differ, and without formulas."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

SEPARATORS = ",;\t|"
SAMPLE = 64 * 1024  # characters by which the separator is found
BATCH = 500  # rows at once: each message has a price

# What a spreadsheet would take for a formula, and full-width signs, which some take for one (OWASP, "CSV Injection").
# What begins with a sign and is a number, or the number of a telephone, stays what it is.
NUMBER = r"(?:[\d .,:()/-]*%?|[\d.]+[eE][+-]?\d+|inf|infinity|nan)\Z"
FORMULA = re.compile(rf"[=@\uff1d\uff0b\uff0d\uff20]|[+-](?!{NUMBER})", re.IGNORECASE)
# What is not seen, and makes two equal cells differ: control characters, zero-width ones, a mark of byte order.
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200d\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
)


def clean(
    data: bytes, separator: str | None = None, encoding: str | None = None
) -> Iterator[dict[str, Any] | list[list[str]]]:
    """First a dict that says what was found, then lists of rows; the first row has the names of the columns.

    ``data`` are the bytes of a file. What is not said is found out.
    """
    text, encoding = decoded(bytes(data), encoding)
    text = UNSEEN.sub("", text)
    separator = separator or found_separator(text)
    names: list[str] | None = None
    used: set[int] = set()
    width = count = empty = formulas = 0
    for row in rows(text, separator):
        filled = [number for number, cell in enumerate(row) if cell]
        if not filled:
            empty += 1
            continue
        names = row if names is None else names
        count += 1
        width = max(width, len(row))
        used.update(filled)
        formulas += sum(1 for cell in row if FORMULA.match(cell))
    columns = sorted(used)
    names = distinct(picked(names or [], columns), columns)
    yield {
        "encoding": encoding,
        "separator": separator,
        "columns": names,
        "rows": max(0, count - 1),
        "empty_rows": empty,
        "empty_columns": width - len(columns),
        "formulas": formulas,
    }
    kept = (picked(row, columns) for row in rows(text, separator) if any(row))
    next(kept, None)  # the names as they were
    table = itertools.chain([names] if names else [], kept)
    while batch := [[harmless(cell) for cell in row] for row in itertools.islice(table, BATCH)]:
        yield batch


def decoded(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """The text, and what it was encoded in: what its first bytes say, UTF-8 if it is that, and else Windows' own."""
    if encoding is None:
        marks = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
        encoding = next((name for mark, name in marks if data.startswith(mark)), None)
    if encoding is None:
        try:
            return data.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            encoding = "cp1252"
    return data.decode(encoding, "replace"), encoding


def found_separator(text: str) -> str:
    """The one by which the most rows have the same number of cells, more than one."""

    def agreeing(separator: str) -> tuple[int, int]:
        lengths = [len(row) for row in rows(text[:SAMPLE], separator) if len(row) > 1 and any(row)]
        usual = max(set(lengths), key=lengths.count, default=0)
        return lengths.count(usual), usual

    return max(SEPARATORS, key=agreeing)


def rows(text: str, separator: str) -> Iterator[list[str]]:
    """Trimmed. A quote that never ends takes the rest of the file with it, and is a cell like any other."""
    csv.field_size_limit(len(text) + 1)
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
        yield [cell.strip() for cell in row]


def distinct(names: Sequence[str], columns: Sequence[int]) -> list[str]:
    """No two alike, and none empty: a spreadsheet or a database would take the one for the other."""
    taken: set[str] = set()
    found = []
    for given, column in zip(names, columns, strict=True):
        wanted = name = given or f"column {column + 1}"
        number = 1
        while wanted.casefold() in taken:
            number += 1
            wanted = f"{name} {number}"
        taken.add(wanted.casefold())
        found.append(wanted)
    return found


def picked(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [row[number] if number < len(row) else "" for number in columns]


def harmless(cell: str) -> str:
    """A cell that a spreadsheet would run begins with an apostrophe, which says that it is text."""
    return "'" + cell if FORMULA.match(cell) else cell
