"""The process that holds one page: it parses, fetches through its request_server, lays out and paints.

It runs locked down (:mod:`.sandbox`). Foreign pixels never reach the layout engine's own image decoders:
every raster image is decoded in a process of its own and handed to the engine as a bitmap written here.
"""
