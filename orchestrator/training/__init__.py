"""One training run: the loop and the parts that it calls between sampling, grading and learning."""
