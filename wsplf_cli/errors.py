"""Every error that a user can cause, and what to type next.

    WsplfError(message, hint="")    what is wrong, on which entry or file; the hint is the next thing to type
    ├── ConfigError                 bad option or TOML key (exit code 2)
    ├── ProjectError                project unreadable, or changed on disk since it was read
    ├── SlideError                  this slide cannot be used: the loop records it and goes on
    ├── WorkersError                workers that cannot be reached, or cannot do this work
    ├── MissingDependency           hint = the exact pip install line
    └── ProcessError                one of several processes that train together has failed, and all end

Foreign exceptions are translated where they enter, always with ``raise ... from``.
"""


class WsplfError(Exception):
    """What is wrong in one line, with the next thing to type as ``hint``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(WsplfError):
    """A bad option value or TOML key."""


class ProjectError(WsplfError):
    """A project or one of its files that cannot be read or written."""


class SlideError(WsplfError):
    """One slide or entry that cannot be used; the loop over entries records it and goes on."""


class WorkersError(WsplfError):
    """Workers that cannot be reached, or that cannot do this work."""


class MissingDependency(WsplfError):
    """A library that is needed for what was asked and is not installed."""


class ProcessError(WsplfError):
    """The failure of one of several processes that train together; the others end without a word."""
