"""Procedural H&E-like tissue and cohorts with exact truth, for the demo, the tests and the shipped weights."""
