"""What an update reports of itself: sums over tokens, non-finite values, memory, efficiency."""
