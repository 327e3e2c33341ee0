"""From files, hub data sets and generated questions to problems, warm-up pairs and token ids."""
