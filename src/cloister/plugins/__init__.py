"""The privileged side of plugins: manifests, what each may do, their processes, and calls."""

import logging

# As for cloister.browser: a library says nothing unless the program asks it to.
logging.getLogger("cloister").addHandler(logging.NullHandler())
