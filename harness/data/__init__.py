"""Datasets: safe reading of MMSA files, synthetic data, the cache, text inputs and occlusion."""
