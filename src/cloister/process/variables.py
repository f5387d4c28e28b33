"""What launcher and launched agree on, in a module that imports nothing."""

CHANNEL_VARIABLE = "CLOISTER_CHANNEL_FD"
"""Environment variable: the number of the inherited descriptor that is the child's control channel."""
SHARED_VARIABLE = "CLOISTER_SHARED_NAMESPACES"
"""Environment variable: namespaces of the host's that a zygote stays in, as the sandbox names them, with commas."""
LOG_VARIABLE = "CLOISTER_SANDBOX_LOG"
"""Environment variable: with ``1``, children tell of what the sandbox denies them quietly."""
