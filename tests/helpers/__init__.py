"""What several test files use: the real command under watch, real learner ranks, simpler second implementations."""
