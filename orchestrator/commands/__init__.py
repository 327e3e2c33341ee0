"""The commands of `thinkless`, one file each, and what they check before anything starts."""
