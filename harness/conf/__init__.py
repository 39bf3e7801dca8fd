"""Values of the configuration, composed by Hydra; their types stand in `harness.config.schema`."""
