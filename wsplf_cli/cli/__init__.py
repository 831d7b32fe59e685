"""The command line; the only package that imports typer. Commands register in the order in which help shows them."""

# ruff: noqa: I001  the pipeline comes first in help
from wsplf_cli.cli import pipeline, exchange, models
from wsplf_cli.cli.command import app, main

__all__ = ["app", "exchange", "main", "models", "pipeline"]
