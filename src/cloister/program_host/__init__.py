"""program_host: the process of a foreign program. It locks itself down, and becomes that program."""
