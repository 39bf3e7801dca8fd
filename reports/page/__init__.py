"""The report's page: one HTML file with the summary, all tables and all figures of a study."""
