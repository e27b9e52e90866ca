"""Training tables from the past: the log, or a shop's files, through the very code that serves."""
