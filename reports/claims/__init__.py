"""Claims of papers, as data in YAML, and what a study's runs say of each: see `reports.claims.reader`."""
