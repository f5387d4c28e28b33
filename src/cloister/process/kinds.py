"""The kinds of process, and the module that each one runs.

Names, not imports: the privileged side never imports a child. A module has ``POLICY``, ``preload(options)``
(before lock-down: imports, and what only files have) and ``main(start)`` (locks itself down, then serves).
"""

from __future__ import annotations

__all__ = [
    "HOST_NETWORK",
    "MODULES",
    "OF_PAGES",
    "OF_PLUGINS",
    "PAGES_ONLY",
    "PLUGIN_HOST",
    "PROGRAM_HOST",
    "WITHOUT_A_LOOP",
]

PLUGIN_HOST = "plugin_host"
"""The process of a plugin."""
PROGRAM_HOST = "program_host"
"""The process of a program that a plugin is, or runs."""
OF_PLUGINS = frozenset({PLUGIN_HOST, PROGRAM_HOST})
"""The kinds that no page has."""

OF_PAGES = ("web_content", "request_server", "lookup_server", "image_decoder")
"""The kinds that a page has, in the order in which it needs them."""

PAGES_ONLY = {"request_server": b"\x81\xaapages_only\xc3"}
"""What kinds are told where no program asks for anything: ``interfaces.request_server.PreloadOptions``, encoded here,
as a command tells its zygote before it has imported that."""

MODULES = {
    "zygote": "cloister.process.zygote",
    "lookup_server": "cloister.lookup_server.main",
    "request_server": "cloister.request_server.main",
    "image_decoder": "cloister.image_decoder.main",
    "web_content": "cloister.web_content.main",
    PLUGIN_HOST: "cloister.plugin_host.main",
    PROGRAM_HOST: "cloister.program_host.main",
}

HOST_NETWORK = frozenset({"lookup_server"})
"""Kinds that stay in the host's network namespace: the one that connects."""

WITHOUT_A_LOOP = frozenset({"image_decoder", *OF_PLUGINS})
"""Kinds that wait for one thing at a time: they do without asyncio, and are forked often."""
