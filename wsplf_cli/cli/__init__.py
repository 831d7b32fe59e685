"""The command line; the only package that imports typer. Commands register in the order in which help shows them."""

# ruff: noqa: I001  loop comes first in help
from wsplf_cli.cli import pipeline as loop, exchange as bridge
from wsplf_cli.cli.command import app, main

__all__ = ["app", "bridge", "loop", "main"]
