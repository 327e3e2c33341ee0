"""When and where. In: a configuration. Out: a run folder. The only room that knows all the others."""
