"""The live page of many runs, from their folders alone. In: run folders. Out: a page, or a screen of text."""
