"""dnspython without what it can do besides DNS over UDP and TCP.

For DNS over HTTPS and QUIC, DNSSEC and the rest it imports what it needs, if that happens to be installed: HTTP
clients, a cryptography library, other event loops. This process has no use for them. And to find out, it imports
``importlib.metadata``, which is a third of all that is loaded here (zipfile, email, csv).
"""

from __future__ import annotations

import sys
import types

import dns

__all__ = ["leave_out"]


class _None(types.ModuleType):
    """Stands for the module that dnspython asks."""

    def have(self, _feature: str) -> bool:
        return False


def leave_out() -> None:
    """Let dnspython find nothing else installed. Comes before anything of it is imported."""
    name = "_features"
    module = _None(f"{dns.__name__}.{name}")
    sys.modules[module.__name__] = module
    setattr(dns, name, module)
