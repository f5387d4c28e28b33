"""The contracts: one module per boundary, message types only, nothing that does anything.

A message is a frozen msgspec struct; an :class:`Interface` is the set of messages that each side of one
channel may send. Whatever does not decode as one of them, bounds included, is a ``BadMessage``.

Nothing here says ``from __future__ import annotations``: msgspec would compile each annotation's text in every process.
"""
