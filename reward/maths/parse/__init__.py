"""From the text of a mathematical expression to its tree."""
