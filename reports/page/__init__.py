"""The report's page: what a study says, every table and figure, in one HTML file."""
