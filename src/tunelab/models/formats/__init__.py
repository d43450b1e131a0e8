"""Weight formats: one file each, known by its name (`precision: nf4`). What a file holds stands in _format.py."""
