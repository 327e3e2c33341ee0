"""What a model's answers to held-out problems show: accuracy and tokens by mode, the dial between them, comparisons."""
