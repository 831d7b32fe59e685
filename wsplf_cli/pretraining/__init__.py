"""Training of the small networks that ship, on synthetic tissue, from a seed: ``python -m wsplf_cli.pretraining``."""
