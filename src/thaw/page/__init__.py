"""Pages that Thaw leaves: one HTML file each, which loads nothing; for light, dark and print."""
