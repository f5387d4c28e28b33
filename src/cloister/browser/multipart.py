"""A request's body from what a program has: JSON, a form, files (HTML standard, "multipart/form-data encoding
algorithm"). All of it is the program's own; what files hold is not read here."""

from __future__ import annotations

import json
import mimetypes
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlencode

from ..errors import InvalidArgument, descriptors_left
from .transfers import OpenFile, Outgoing

__all__ = ["Data", "FilePayload", "FormValue", "MultipartValue", "body", "open_file"]

_LONE_BREAK = re.compile(r"\r\n|\r|\n")
_ESCAPES = {'"': "%22", "\r": "%0D", "\n": "%0A"}
_UNKNOWN = "application/octet-stream"


class FilePayload(TypedDict):
    """A file that is none yet."""

    name: str
    mimeType: str
    buffer: bytes


Data = bytes | str | Path | Mapping[str, object] | Sequence[object]
FormValue = str | int | float | bool
MultipartValue = FormValue | bytes | Path | FilePayload | Sequence[FormValue | bytes | Path | FilePayload]


def body(
    data: Data | None,
    form: Mapping[str, FormValue] | None,
    multipart: Mapping[str, MultipartValue] | None,
) -> tuple[Outgoing, str | None]:
    """What is sent, and its type; at most one of the three is given. Raises InvalidArgument, and
    :class:`OutOfDescriptors`."""
    if sum(each is not None for each in (data, form, multipart)) > 1:
        raise InvalidArgument("data, form and multipart: a request has one of them")
    if data is not None:
        return _plain(data)
    if form is not None:
        pairs = [(name, _text(name, value)) for name, value in form.items()]
        return Outgoing([urlencode(pairs).encode()]), "application/x-www-form-urlencoded"
    if multipart is not None:
        return _multipart(multipart)
    return Outgoing(), None


def open_file(path: str | os.PathLike[str]) -> OpenFile:
    """A regular file of any size, opened to be sent. Raises InvalidArgument for what is none."""
    try:
        with descriptors_left():
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidArgument(f"{os.fspath(path)}: {error.strerror}") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):  # a pipe or a device could block, or never end
        os.close(fd)
        raise InvalidArgument(f"{os.fspath(path)}: not a regular file")
    return OpenFile(fd, info.st_size)


def _plain(data: Data) -> tuple[Outgoing, str]:
    if isinstance(data, Path):
        return Outgoing([open_file(data)]), _type_of(data.name)
    if isinstance(data, bytes | bytearray | memoryview):
        return Outgoing([bytes(data)]), _UNKNOWN
    if isinstance(data, str):
        return Outgoing([data.encode()]), _UNKNOWN
    try:
        return Outgoing([json.dumps(data).encode()]), "application/json"
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"data: {error}") from None


def _multipart(fields: Mapping[str, MultipartValue]) -> tuple[Outgoing, str]:
    boundary = f"----CloisterFormBoundary{secrets.token_hex(16)}"  # nobody who writes a value knows it
    parts: list[bytes | OpenFile] = []
    try:
        for name, value in _each(fields):
            parts += _part(boundary, name, value)
    except BaseException:
        Outgoing([part for part in parts if isinstance(part, OpenFile)]).close()
        raise
    parts.append(f"--{boundary}--\r\n".encode())
    return Outgoing(_joined(parts)), f"multipart/form-data; boundary={boundary}"


def _each(fields: Mapping[str, MultipartValue]) -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, list | tuple):
            yield from ((name, each) for each in value)
        else:
            yield name, value


def _part(boundary: str, name: str, value: object) -> list[bytes | OpenFile]:
    """One field as HTML has browsers send it."""
    if not isinstance(name, str):
        raise InvalidArgument(f"multipart: {name!r} is not a field's name")
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="{_escaped(_with_breaks(name))}"'
    if isinstance(value, Path):
        kind = _type_of(value.name)
        return [_head(start, value.name, kind), open_file(value), b"\r\n"]
    if isinstance(value, bytes):
        return [_head(start, "blob", _UNKNOWN), value, b"\r\n"]
    if isinstance(value, Mapping):
        try:
            payload = {key: value[key] for key in ("name", "mimeType", "buffer")}
        except KeyError as error:
            raise InvalidArgument(f"multipart: the file {name!r} has no {error}") from None
        if not isinstance(payload["buffer"], bytes):
            raise InvalidArgument(f"multipart: the buffer of {name!r} is not bytes")
        return [_head(start, str(payload["name"]), str(payload["mimeType"])), payload["buffer"], b"\r\n"]
    text = _with_breaks(_text(name, value))
    return [f"{start}\r\n\r\n{text}\r\n".encode(errors="replace")]


def _head(start: str, filename: str, kind: str) -> bytes:
    if not kind.isprintable() or not kind.isascii():
        raise InvalidArgument(f"multipart: {kind!r} is not a type")
    return f'{start}; filename="{_escaped(filename)}"\r\nContent-Type: {kind}\r\n\r\n'.encode(
        errors="replace"
    )


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)


def _with_breaks(text: str) -> str:
    return _LONE_BREAK.sub("\r\n", text)


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidArgument(f"{name}: {type(value).__name__} is nothing that a form can hold")


def _type_of(name: str) -> str:
    return mimetypes.guess_type(name)[0] or _UNKNOWN


def _joined(parts: list[bytes | OpenFile]) -> list[bytes | OpenFile]:
    """Neighbouring bytes as one."""
    made: list[bytes | OpenFile] = []
    for part in parts:
        if isinstance(part, bytes) and made and isinstance(made[-1], bytes):
            made[-1] += part
        else:
            made.append(part)
    return made
