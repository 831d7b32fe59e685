"""One file for each format of ``wsplf model export``.

``FILE`` is the name of the file that the format adds to the folder of the export. ``write(network, checkpoint, path)``
writes it, whole or not at all, and returns what the user should know of it, line by line.
"""
