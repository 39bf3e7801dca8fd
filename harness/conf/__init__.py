"""YAML files of the configuration, composed by Hydra; `harness.config.schema` has the types."""
