"""What an image_decoder may do: compute, and answer on its channel."""

from __future__ import annotations

from cloister.sandbox import Limits, Policy

__all__ = ["POLICY"]

_MIB = 1024 * 1024

POLICY = Policy(
    kind="image_decoder",
    groups=("stdio", "memory", "ipc"),
    limits=Limits(
        # 64 megapixels are 256 MiB; an animated WebP holds them four times while it is decoded.
        data=1536 * _MIB,
        # The same, the result, the file, and the libraries that the zygote has mapped.
        address_space=3072 * _MIB,
        file_size=1024 * _MIB,
        open_files=32,
        cpu_seconds=60,
    ),
)
