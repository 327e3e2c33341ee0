"""Whether this machine, and the Ray cluster that runs would join, can run: a file for each area of checks."""
