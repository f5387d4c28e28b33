"""What Python runs for ``--subprocess-kind=KIND``, by its file's name: ``-m`` loads runpy, and without ``-S`` Python
looks through the folders of libraries for what it shall do when it starts; together that takes 6 ms."""

import os
import sys

# process/variables.py has the name, and is not found before.
sys.path += os.environ.pop("CLOISTER_LIBRARIES").split(os.pathsep)

from cloister.__main__ import main

main()
