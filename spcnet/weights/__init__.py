"""Weight files of other programs: reading, recognition, conversion."""
