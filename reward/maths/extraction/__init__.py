"""From a response to its final answer."""
