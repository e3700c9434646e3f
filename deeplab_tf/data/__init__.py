"""From files and records to batches: everything that happens to data before the network."""
