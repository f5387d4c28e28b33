"""Fonts: the system's where it has any, else those of the package pymupdf-fonts.

Fontconfig reads its configuration once, before lock-down; the font files are opened when a page first needs them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["configuration", "folders", "install", "system_has_fonts"]

_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc", ".pfb", ".pcf", ".gz"}

_PACKAGE = "pymupdf-fonts"
_PACKAGED = {  # its names: regular, bold, italic, bold italic of each family; then symbols
    "NotoSans-Regular": "notos",
    "NotoSans-Bold": "notosbo",
    "NotoSans-Italic": "notosit",
    "NotoSans-BoldItalic": "notosbi",
    "UbuntuMono-Regular": "ubuntm",
    "UbuntuMono-Bold": "ubuntmbo",
    "UbuntuMono-Italic": "ubuntmit",
    "UbuntuMono-BoldItalic": "ubuntmbi",
    "NotoSansMath-Regular": "math",
    "NotoSansSymbols-Regular": "symbol1",
    "NotoSansSymbols2-Regular": "symbol2",
}
_FAMILIES = {"sans-serif": "Noto Sans", "serif": "Noto Sans", "monospace": "Ubuntu Mono"}
_SUMS = "SHA256SUMS"


def folders() -> tuple[str, ...]:
    """Every folder that may hold fonts, those that are not there included."""
    return (*map(str, _system_folders()), *map(str, _places()))


def system_has_fonts() -> bool:
    """Whether any font file is in the system's folders or the user's."""
    return any(
        Path(name).suffix.lower() in _SUFFIXES
        for folder in _system_folders()
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def install() -> Path:
    """Write the packaged fonts into the user's cache, once, or else beside the temporary files; where they are.

    What is there already is compared with its checksums. The folder belongs to the user alone, and appears whole.

    Raises:
        OSError: neither place can be written.
    """
    preferred, other = _places()
    try:
        return _installed(preferred)
    except OSError:  # no home, or one that is read-only
        return _installed(other)


def _installed(target: Path) -> Path:
    if _is_whole(target):
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="cloister-fonts-", dir=target.parent))  # mode 0700
    try:
        _write(building)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    except OSError:
        if not _is_whole(target):  # somebody else was as quick
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


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
    import plutoprint

    system = Path("/etc/fonts/fonts.conf")
    if system.exists():
        return (system,)
    return (Path(plutoprint.__file__).parent / "fontconfig" / "fonts.conf",)


def _places() -> tuple[Path, Path]:
    """Where the packaged fonts may be. Names in /tmp are safe as others cannot rename what is not theirs there."""
    name = f"fonts-{importlib.metadata.version(_PACKAGE)}"
    home = os.path.expanduser("~")  # noqa: PTH111
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")  # noqa: PTH118
    return Path(cache) / "cloister" / name, Path("/tmp") / f"cloister-{os.getuid()}-{name}"  # noqa: S108


def _write(folder: Path) -> None:
    import pymupdf_fonts

    sums = []
    for name, key in _PACKAGED.items():
        data = pymupdf_fonts.myfont(key)
        (folder / f"{name}.ttf").write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}.ttf")
    (folder / _SUMS).write_text("\n".join(sums) + "\n")


def _is_whole(folder: Path) -> bool:
    """Whether it is ours alone, and holds what its checksums say."""
    try:
        status = folder.stat(follow_symlinks=False)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            return False
        lines = (folder / _SUMS).read_text().splitlines()
        return len(lines) == len(_PACKAGED) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for digest, _, name in (line.partition("  ") for line in lines)
        )
    except (OSError, ValueError):
        return False
