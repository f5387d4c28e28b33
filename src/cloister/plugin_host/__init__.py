"""plugin_host: the process of one plugin. It runs the plugin's code, answers calls, and reaches nothing else."""
