"""lookup_server: the only process that can make a socket.

It resolves a name, judges each address by the network policy immediately before it connects to that very
address, and hands the connected socket on. It speaks no HTTP (but to a name server or a proxy that the user chose)
and opens no files.
"""
