"""Shards: parts of a study that need no database while they train, and the collection of their results.

A shard trains every n-th cell of the plan, which is the same on all machines. It writes each result as a
folder, as results wait for MLflow, below ``var_dir/shards/STUDY``, and beside them the announcement of its
request. `harness.collect` logs what lies there, as often as it is called.
"""
