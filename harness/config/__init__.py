"""The configuration: from the command line to typed settings."""
