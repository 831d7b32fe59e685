"""What runs leave in a project's folder beside QuPath's files: who writes, what was written, how to restore it.

In the order in which one reads it:

- ``layout``: every path under PROJECT-FOLDER/wsplf.
- ``lock``: one writer at a time in a project.
- ``journal``: what a run is about to write, recorded before it is written, and the old files.
- ``record``: one run of a command, with its options, results, curves and log; takes the lock and the journal.
- ``resume``: what a stopped run had finished, for the next run to go on from.
- ``history``: the runs of a project, read from their journals, and what was undone since.
- ``written``: the annotations that a run wrote into an entry, to recognise later what a person deleted.
"""
