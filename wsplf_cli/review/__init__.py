"""What a person decided in QuPath, and what follows from it for each class.

Read in this order: ``on_image`` (only the first plane counts, inside the image), ``roles`` (what one annotation is for
a class), ``regions`` (where on a slide a person has decided something), ``memory`` (deletions, which leave no
annotation behind, are remembered from run to run) and ``merge`` (new polygons keep clear of what a person decided).
"""
