"""The report's figures; each is a pure function of its data."""
