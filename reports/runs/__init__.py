"""What a report reads of a study: its runs, requests, trials and predictions, as frames."""
