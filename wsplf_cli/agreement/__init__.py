"""Where several readers agree who reviewed the same slides in copies of a project, and a project of what they decided.

In the order in which one reads it:

- ``match``: which entries of the copies show the same slide.
- ``reading``: what one reader says of a slide for a class: the area of the class, and where the reader decided nothing.
- ``area``: Dice and kappa of these areas, per slide and pooled.
- ``decisions``: per polygon what each reader decided, and what follows by the rule (all or majority).
- ``slides``: both for one slide; ``document``: for all slides, as ``agree --json`` prints it.
- ``merge``: the new project in which the review goes on; ``target``: its files, put in place whole.
"""
