"""Where the work on slides is done: in this process, in a pool of processes, or on a Dask cluster.

``cohort.run.for_each_slide`` is the loop; it takes ``Workers``. In the order in which one reads the package:

- ``task``: one piece of work, as a worker does it: a picklable function of one argument, which returns a record.
- ``workers``: what the loop needs of an executor, and the choice that does the work in this process.
- ``pool``: a ``ProcessPoolExecutor`` (``--workers``).
- ``loop``: hands out the work, takes records in any order, and tries again what a worker died of.
- ``resources``: how many workers and threads this machine has room for.

Only this process writes into QuPath's files, runs and the journal. Workers write one thing: SAM's embeddings, into the
cache below ``wsplf/``, which several processes may write to (see ``cache``).

What networks compute depends in the last digits on the number of threads of a process. So every worker computes with
one thread, and the polygons are the same, to the byte, with any number of workers. A command without workers gives the
same bytes where it computes with one thread too, as with OMP_NUM_THREADS=1.
"""
