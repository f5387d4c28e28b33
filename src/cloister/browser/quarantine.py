"""Names for files that come from outside: a stranger proposes one, and what is made of it is harmless in a folder."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["MAX_BYTES", "beside", "numbered", "safe_name"]

MAX_BYTES: Final = 255
"""Of one name (NAME_MAX of Linux, in UTF-8)."""
_FALLBACK: Final = "download"
_MAX_EXTENSION: Final = 16
"""Characters, the dot included: what is longer is no extension."""

# What Windows has as devices, whatever follows the first dot (Naming Files, Paths, and Namespaces).
_DEVICES: Final = re.compile(
    r"(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])\s*(\..*)?", re.I | re.S
)
_NOT_IN_NAMES: Final = re.compile(r'[<>:"|?*]')
# Letters by their class that show nothing: fillers of Hangul, the invisible Khmer vowels, the grapheme joiner,
# variation selectors, an empty Braille cell.
_UNSEEN: Final = re.compile(
    "[\u115f\u1160\u3164\uffa0\u17b4\u17b5\u034f\u180b-\u180f\ufe00-\ufe0f\u2800\U000e0100-\U000e01ef]"
)
# What a desktop runs, or fetches things for, when it is opened or only looked at.
_SHORTCUTS: Final = (".desktop", ".directory", ".lnk", ".local", ".scf", ".url")
# Two extensions that are one.
_DOUBLE: Final = re.compile(r"\.tar\.[a-z0-9]{1,6}", re.I)


def safe_name(suggested: str, extension: str = "") -> str:
    """A name of one file: without a path, nothing unseen or hidden in it, meaning nothing anywhere, 255 bytes at most
    with its extension kept. ``extension`` is for what has no name at all."""
    last = re.split(r"[/\\]", suggested.rstrip("/\\"))[-1]
    text = "".join(map(_shown, unicodedata.normalize("NFC", last)))
    text = _stripped(_NOT_IN_NAMES.sub("_", text))
    if not text:
        text = _FALLBACK + extension
    if text.startswith(("-", "~")):  # an option of a command; a home folder, or a backup
        text = f"_{text}"
    if _DEVICES.fullmatch(text):
        text = f"_{text}"
    if text.lower().endswith(_SHORTCUTS):
        text += ".download"
    stem, extension = _parted(text)
    return _fitted(stem, extension)


def numbered(name: str, number: int) -> str:
    """``name`` for the next file that wants it: ``report (1).pdf``; ``name`` itself for 0."""
    stem, extension = _parted(name)
    return name if not number else _fitted(stem, f" ({number}){extension}")


def beside(name: str, ending: str) -> str:
    """``name`` with ``ending`` behind it."""
    return _fitted(name, ending)


def _shown(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    return character if character.isprintable() and not _UNSEEN.match(character) else ""


def _stripped(text: str) -> str:
    """Not hidden, and the same on systems that drop what is at the end."""
    return text.lstrip(". ").rstrip(". ")


def _parted(name: str) -> tuple[str, str]:
    """What goes before the extension, and it; also of two in one, as in .tar.gz."""
    dots = [at for at, character in enumerate(name) if character == "."]
    for at in dots[-2:]:
        ending = name[at:]
        is_last = at == dots[-1]
        if (
            at
            and " " not in ending
            and len(ending) <= _MAX_EXTENSION
            and (is_last or _DOUBLE.fullmatch(ending))
        ):
            return name[:at], ending
    return name, ""


def _fitted(stem: str, ending: str) -> str:
    """Both, the stem cut where a letter ends."""
    room = MAX_BYTES - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + ending
