"""Measurements of the harness's overhead beside the arithmetic, compared with bounds."""
