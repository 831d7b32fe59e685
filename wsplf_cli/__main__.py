"""``python -m wsplf_cli`` and the ``wsplf`` command."""

import sys

from wsplf_cli import cli


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
