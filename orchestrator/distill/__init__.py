"""Warm-up data from two teachers: questions, answers, verdicts, the choice among them, the data set and its card."""
