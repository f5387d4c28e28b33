"""How messages travel: typed, bounded, with descriptors, over a socketpair. Public, and usable by itself.

A :class:`Channel` moves packets, a :class:`Connection` moves messages of one interface. Everything that comes
in is judged before anybody sees it: size, shape, bounds, the number and the nature of its descriptors.
"""

from .channel import Channel
from .connection import Connection
from .descriptors import Descriptors

__all__ = ["Channel", "Connection", "Descriptors"]
