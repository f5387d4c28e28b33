"""The decoder as it is used: forked from the zygote, locked down, gone after its image."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from PIL import Image

from cloister.errors import ChannelClosed, RequestFailed
from cloister.image_decoder.samples import SAMPLES
from cloister.image_decoder.sandbox import POLICY
from cloister.interfaces.image_decoder import IMAGES, Decode, Decoded, DecodeFile, Options
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel, Connection, blob, memory
from cloister.process import ChildProcess, Zygote

from .pictures import encode, png, quarters

T = TypeVar("T")
DEFAULTS = Options()


class Decoder:
    """One forked decoder, and this side's connection to it."""

    def __init__(self, child: ChildProcess, connection: Connection) -> None:
        self.child = child
        self.connection = connection

    async def decode(self, data: bytes) -> tuple[Decoded, bytes]:
        body, fds = blob.pack(data)
        return self._pixels(*await self.connection.request(Decode(body), fds, timeout=20))

    async def decode_file(self, path: Path) -> tuple[Decoded, bytes]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._pixels(*await self.connection.request(DecodeFile(), [fd], timeout=20))

    @staticmethod
    def _pixels(reply: Decoded, fds: object) -> tuple[Decoded, bytes]:
        fd = fds.take()  # type: ignore[attr-defined]
        try:
            return reply, memory.read_sealed(fd, reply.width * reply.height * 4)
        finally:
            os.close(fd)


Fork = Callable[[], Awaitable[Decoder]]


def with_decoders(work: Callable[[Fork], Awaitable[T]], options: Options = DEFAULTS) -> T:
    """Run ``work`` with a function that forks a decoder; all of one zygote."""

    async def run() -> T:
        async with _forking(options) as fork:
            return await work(fork)

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def _forking(options: Options) -> AsyncIterator[Fork]:
    zygote = await Zygote.start([PreloadKind("image_decoder", "cloister.image_decoder.main")])
    made: list[Decoder] = []

    async def fork() -> Decoder:
        here, there = Channel.pair()
        child = await zygote.fork("image_decoder", msgspec.msgpack.encode(options), [there])
        made.append(Decoder(child, Connection(here, IMAGES, "client")))
        return made[-1]

    try:
        yield fork
    finally:
        for decoder in made:
            decoder.connection.close()
            await decoder.child.end()
        await zygote.close()


def test_every_format_is_decoded_after_lock_down_in_a_process_that_then_ends() -> None:
    async def work(fork: Fork) -> None:
        for name, data in SAMPLES.items():
            decoder = await fork()
            reply, raw = await decoder.decode(data)
            assert reply.format == name
            assert len(raw) == reply.width * reply.height * 4
            status = await decoder.child.wait(10)
            assert (status.code, status.signal) == (0, None)

    with_decoders(work)


def test_ways_that_no_sample_took_work_after_lock_down_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    frames = [Image.new("RGBA", (300, 200), colour) for colour in ("red", "blue")]
    pictures = {
        "progressive": encode(quarters(), "JPEG", progressive=True),
        "cmyk": encode(quarters("CMYK"), "JPEG", exif=exif),
        "mpo": encode(quarters(), "MPO", save_all=True, append_images=[quarters()]),
        "16 bit": png(1, 1, 16, 0, b"\0\x12\x34", (b"tRNS", b"\0\x12\x34")),
        "animated webp": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], exif=exif),
        "animated gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated avif": encode(frames[0], "AVIF", save_all=True, append_images=frames[1:]),
        "jpeg in tiff": encode(quarters(), "TIFF", compression="jpeg", exif=exif),
        "zstd in tiff": encode(quarters(), "TIFF", compression="zstd"),
        "fax in tiff": encode(quarters("1"), "TIFF", compression="group4"),
        "bmp in ico": encode(quarters(), "ICO", bitmap_format="bmp"),
        "large": encode(Image.effect_noise((2000, 1500), 50), "PNG"),
    }

    async def work(fork: Fork) -> None:
        for name, data in pictures.items():
            reply, raw = await (await fork()).decode(data)
            assert len(raw) == reply.width * reply.height * 4, name

    with_decoders(work)


def test_a_file_is_read_from_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(quarters(), "PNG"))

    async def work(fork: Fork) -> tuple[int, int]:
        reply, _ = await (await fork()).decode_file(path)
        return reply.width, reply.height

    assert with_decoders(work) == (64, 32)


def test_a_failure_is_told_and_ends_the_process_as_well() -> None:
    async def work(fork: Fork) -> None:
        for data, code in (
            (b"no image", "unsupported_type"),
            (SAMPLES["PNG"][:60], "image_broken"),
            (png(60_000, 60_000, 8, 2, b"\0"), "image_too_large"),
        ):
            decoder = await fork()
            with pytest.raises(RequestFailed) as caught:
                await decoder.decode(data)
            assert caught.value.code == code
            assert (await decoder.child.wait(10)).code == 0

    with_decoders(work)


def test_the_limit_of_pixels_is_the_one_that_the_browser_set() -> None:
    async def work(fork: Fork) -> None:
        with pytest.raises(RequestFailed, match="64x32 is too large: at most 2047 pixels"):
            await (await fork()).decode(encode(quarters(), "PNG"))

    with_decoders(work, Options(max_pixels=2047))


def test_one_process_decodes_one_image() -> None:
    async def work(fork: Fork) -> None:
        later, at_once = await fork(), await fork()
        await later.decode(SAMPLES["PNG"])
        with pytest.raises(ChannelClosed):
            await later.decode(SAMPLES["PNG"])
        outcomes = await asyncio.gather(
            *(at_once.decode(SAMPLES["PNG"]) for _ in range(2)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [tuple, ChannelClosed]

    with_decoders(work)


def test_a_decoder_ends_when_nobody_can_ask_it_any_more() -> None:
    async def work(fork: Fork) -> int | None:
        decoder = await fork()
        await decoder.child.ready()
        decoder.connection.close()
        return (await decoder.child.wait(10)).code

    assert with_decoders(work) == 0


def test_what_takes_more_memory_than_a_process_has_is_too_large() -> None:
    script = """
        import resource
        from cloister.errors import RequestFailed
        from cloister.image_decoder.decode import decode
        from tests.image_decoder.pictures import png

        resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))
        try:
            decode(png(12_000, 12_000, 8, 2, b"\\0"), 2**28)
        except RequestFailed as error:
            print(error.code)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stdout == "image_too_large\n"


def test_the_policy_leaves_nothing_but_computing_and_answering() -> None:
    for call in (
        "openat",
        "socket",
        "connect",
        "execve",
        "clone",
        "fork",
        "ptrace",
        "kill_other",
        "mount",
        "unlink",
    ):
        assert not POLICY.allows(call)
    assert POLICY.read_paths == ()
    assert not POLICY.connects
