"""Reads and writes QuPath's files, GeoJSON and ASAP's XML. No command, no network, no torch.

In the order in which one reads it:

- The project: ``gson`` (JSON to the same bytes), ``project_file`` (project.qpproj and classes.json), ``create`` (a new
  project), ``colours``, ``atomic`` (how files are written).
- Its images: ``servers`` (the image of an entry), ``addresses`` and ``images`` (where its file is now), ``relink``.
- The data folder of an entry, and whether objects that it held are lost: ``data_folder``.
- The annotations of an entry, data.qpdata: ``javaser`` (Java's serialization, a package of its own);
  ``pathobjects``, ``values``, ``rois`` and ``records`` (from its graph to records), ``columns`` (the same for very many
  objects at once); ``javaclasses`` and ``compose`` (new objects); ``shapes`` (what QuPath can store); ``qpdata`` (the
  file as a whole).
- Exchange: ``features``, ``geometries`` and ``geojson``; ``asap``.
"""
