"""Fonts: the system's where it has any, else those of the package pymupdf-fonts.

Fontconfig reads its configuration once, before lock-down; the font files are opened when a page first needs them.
"""

from __future__ import annotations

import os
from pathlib import Path

import plutoprint
from turbohtml import escape

__all__ = ["USUAL", "configuration", "folders", "install", "is_usual", "system_has_fonts"]

USUAL = Path(__file__).with_name("fonts.conf")
"""What :func:`configuration` says where :func:`is_usual`: a file that need not be made, and cannot be left behind."""

_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc", ".pfb", ".pcf", ".gz"}

_SYSTEM_CONFIGURATION = Path("/etc/fonts/fonts.conf")
_FAMILIES = {"sans-serif": "Noto Sans", "serif": "Noto Sans", "monospace": "Ubuntu Mono"}


def folders() -> tuple[str, ...]:
    """Every folder that may hold fonts, those that are not there included; the packaged fonts' where they are used."""
    packaged: tuple[Path, ...] = ()
    if not system_has_fonts():
        from . import packaged_fonts

        packaged = packaged_fonts.places()
    return (*map(str, _system_folders()), *map(str, packaged))


def system_has_fonts() -> bool:
    """Whether any font file is in the system's folders or the user's."""
    return any(
        Path(name).suffix.lower() in _SUFFIXES
        for folder in _system_folders()
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def install() -> Path | None:
    """Where the packaged fonts are, put there if need be; ``None`` where the system has fonts.

    Raises:
        OSError: there is no place to write them to.
    """
    if system_has_fonts():
        return None
    from . import packaged_fonts

    return packaged_fonts.install()


def is_usual(packaged: Path | None) -> bool:
    """Whether :data:`USUAL` is the configuration of this machine."""
    return packaged is None and _SYSTEM_CONFIGURATION.exists()


def configuration(packaged: Path | None) -> str:
    """A fontconfig configuration: the system's own, every font folder, and ``packaged`` where it is needed."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">',
        "<fontconfig>",
    ]
    lines += [
        f'<include ignore_missing="yes">{escape(str(path))}</include>' for path in _system_configuration()
    ]
    lines += [f"<dir>{escape(str(folder))}</dir>" for folder in _system_folders()]
    if packaged is not None:
        lines.append(f"<dir>{escape(str(packaged))}</dir>")
        lines += [
            f"<alias><family>{generic}</family><prefer><family>{family}</family></prefer></alias>"
            for generic, family in _FAMILIES.items()
        ]
    # Never look for new fonts: a locked-down process would find its folders changed, and lose those it has.
    lines += ["<config><rescan><int>0</int></rescan></config>", "</fontconfig>"]
    return "\n".join(lines)


def _system_folders() -> tuple[Path, ...]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is no home
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return (
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        Path("/run/current-system/sw/share/X11/fonts"),  # NixOS
        data / "fonts",
        home / ".fonts",
    )


def _system_configuration() -> tuple[Path, ...]:
    if _SYSTEM_CONFIGURATION.exists():
        return (_SYSTEM_CONFIGURATION,)
    return (Path(plutoprint.__file__).parent / "fontconfig" / "fonts.conf",)
