"""From files and records to batches: all that happens to data before a network sees it."""
