"""One file is one command: a function of the options and a Tracker that returns a StageReport."""
