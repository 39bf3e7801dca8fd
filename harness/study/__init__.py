"""Running a study: the driver, its writer, results that are not logged yet, and the progress display."""
