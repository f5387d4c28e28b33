"""The process that speaks HTTP and TLS for one page load, and has no way to open a socket."""
