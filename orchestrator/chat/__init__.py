"""A terminal client of a served model: choose the mode, turn the dial, see tokens and seconds."""
