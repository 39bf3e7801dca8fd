"""The tables of the report: numbers of the tidy frame, laid out for people."""
