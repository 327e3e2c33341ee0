"""Whether two trees name the same mathematical value."""
