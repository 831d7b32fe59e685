"""Measuring against the truth: the only package that reads it, for ``wsplf evaluate`` and ``wsplf benchmark``.

truth.py reads it, evaluation.py scores annotations against it, learned_from.py tells which slides a model saw.
cohort.py says which slides a benchmark uses, plan.py lists its jobs, runner.py runs them on a copy of the project
(copies.py), table.py and charts.py show the results. reviewer.py simulates a reviewer, and review_results.py shows what
the decisions gave.
"""
