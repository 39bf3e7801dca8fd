"""What figures share: their interface, styles, and blocks that several draw."""
