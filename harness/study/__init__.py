"""A study at work: the driver, its writer, results that wait, and what a person sees."""
