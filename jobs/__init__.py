"""The commands: each file is one page, run as ``python jobs/NAME.py``."""
