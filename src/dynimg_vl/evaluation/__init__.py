"""Benchmarks: read as they are downloaded, predicted, and scored so that every number can be traced to an answer."""
