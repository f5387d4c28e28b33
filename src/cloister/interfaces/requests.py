"""web_content ── request_server, and the browser for a program: all that can be asked of one.

A page asks for less (:mod:`.fetch`), and is sent no reply but to that.
"""

from .base import Interface
from .event_source import CloseEventSource, NextEvent, OpenEventSource
from .fetch import FETCHES
from .transfers import CloseTransfer, HoldFile, NextPiece, OpenTransfer
from .web_socket import CloseWebSocket, NextWebSocketMessage, OpenWebSocket, SendWebSocket

__all__ = ["REQUESTS"]

REQUESTS = Interface(
    FETCHES.name,
    client=(
        *FETCHES.client,
        OpenWebSocket,
        SendWebSocket,
        NextWebSocketMessage,
        CloseWebSocket,
        OpenEventSource,
        NextEvent,
        CloseEventSource,
        HoldFile,
        OpenTransfer,
        NextPiece,
        CloseTransfer,
    ),
)
