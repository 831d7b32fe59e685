"""Trains the small weights that ship, on procedural tissue, with a seed: ``python -m wsplf_cli.pretraining``."""
