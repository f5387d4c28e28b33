"""What a taken-over process would try: a catalogue of attempts, run from inside each kind of process.

This is code of the sandboxed side: it stands in the place of a child, after the child's own lock-down, and tries. The
doctor (``cloister doctor --attack``) and the tests read the list, and judge what came of it.
"""
