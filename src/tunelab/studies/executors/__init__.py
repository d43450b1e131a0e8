"""Executors run the cells of a study: one file each, chosen by name (`tunelab study run ... --executor NAME`)."""
