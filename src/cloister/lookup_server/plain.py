"""DNS over UDP and TCP (RFC 1035, RFC 7766)."""

from __future__ import annotations

import asyncio
import socket

from .message import MAX_ANSWER, Answer, Forged, NoAnswer, Question, Truncated
from .servers import Server
from .sockets import connect_tcp, connect_udp, said

__all__ = ["PlainServer"]

_MAX_FORGED = 16
"""Datagrams that answer something else, until the question is asked over TCP: somebody is guessing."""


class PlainServer:
    """Each question has a socket of its own, with a random port and a random id."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout

    def __str__(self) -> str:
        return str(self._server)

    async def ask(self, question: Question) -> Answer:
        """Raises NoAnswer with what came instead of an answer within ``timeout`` seconds."""
        over = ""
        try:
            async with asyncio.timeout(self._timeout):
                if self._server.over == "udp":
                    try:
                        return await self._by_datagram(question)
                    except Truncated:
                        over = "over TCP, as by datagram it cannot be had whole or trusted: "
                return await self._by_stream(question)
        except TimeoutError:
            raise NoAnswer(f"{over}no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise NoAnswer(f"{over}{said(error)}") from None

    async def _by_datagram(self, question: Question) -> Answer:
        server, loop = self._server, asyncio.get_running_loop()
        with connect_udp(server.address, server.port, server.scope) as there:
            await loop.sock_sendall(there, question.wire)
            for _ in range(_MAX_FORGED):
                data = await loop.sock_recv(there, MAX_ANSWER + 1)
                try:
                    return question.read(data, stream=False)
                except Forged:
                    continue
        raise Truncated

    async def _by_stream(self, question: Question) -> Answer:
        server, loop = self._server, asyncio.get_running_loop()
        with await connect_tcp(server.address, server.port, server.scope) as there:
            await loop.sock_sendall(there, len(question.wire).to_bytes(2) + question.wire)
            size = int.from_bytes(await _exactly(there, 2))
            if size > MAX_ANSWER:
                raise NoAnswer(f"an answer of {size:,} bytes; at most {MAX_ANSWER:,} are read")
            data = await _exactly(there, size)
        try:
            return question.read(data, stream=True)
        except Forged:
            raise NoAnswer("it answered another question") from None


async def _exactly(there: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(there, size - len(data))
        if not piece:
            raise NoAnswer("it closed the connection in the middle of an answer")
        data += piece
    return data
