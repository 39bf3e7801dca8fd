"""The report's tables: numbers of the tidy frame, formatted for people."""
