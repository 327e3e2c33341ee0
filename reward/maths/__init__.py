"""Whether two texts name the same mathematical value: `equality` of what `grammar` reads, after `spelling`."""
