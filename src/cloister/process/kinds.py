"""The kinds of process, and the module that each one runs.

Names, not imports: the privileged side never imports a child. A module has ``POLICY``, ``preload(options)``
(before lock-down: imports, and what only files have) and ``main(start)`` (locks itself down, then serves).
"""

from __future__ import annotations

__all__ = ["HOST_NETWORK", "MODULES", "PLUGIN_HOST", "WITHOUT_A_LOOP"]

PLUGIN_HOST = "plugin_host"
"""The kind that no page has."""

MODULES = {
    "zygote": "cloister.process.zygote",
    "lookup_server": "cloister.lookup_server.main",
    "request_server": "cloister.request_server.main",
    "image_decoder": "cloister.image_decoder.main",
    "web_content": "cloister.web_content.main",
    PLUGIN_HOST: "cloister.plugin_host.main",
}

HOST_NETWORK = frozenset({"lookup_server"})
"""Kinds that stay in the host's network namespace: the one that connects."""

WITHOUT_A_LOOP = frozenset({"image_decoder", PLUGIN_HOST})
"""Kinds that wait for one thing at a time: they do without asyncio, and are forked often."""
