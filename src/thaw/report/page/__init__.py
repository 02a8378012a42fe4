"""What a run leaves to be looked at: `report.html`, and the bundle's model card, its short form."""
