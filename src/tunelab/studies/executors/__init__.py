"""Where the cells of a study run: one file each, chosen by name (`tunelab study run ... --executor NAME`)."""
