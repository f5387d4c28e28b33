"""A small site of good and hostile pages, and the command that opens them side by side."""
