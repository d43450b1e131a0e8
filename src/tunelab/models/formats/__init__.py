"""Weight formats: one file each, known by its name (`precision: nf4`). _format.py documents the interface."""
