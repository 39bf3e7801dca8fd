"""Configuration: typed settings from YAML files and command-line arguments."""
