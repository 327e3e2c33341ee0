"""Metrics of an update: sums over tokens, non-finite values, memory, efficiency."""
