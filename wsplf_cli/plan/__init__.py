"""How long a command takes on a project, and what memory and disk it needs, before any work.

- ``sizes``: what there is to do on each slide: tissue, windows, instances.
- ``measure``: the command on small synthetic slides, in a process of its own.
- ``calibration``: seconds for each unit of work, kept in the user's cache folder.
- ``estimate``: sizes times seconds.
"""
