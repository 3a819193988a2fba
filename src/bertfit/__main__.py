"""The command `bertfit`, also as `python -m bertfit`."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is still being imported ends it without a traceback."""
    try:
        from bertfit.cli.leaving import leave
        from bertfit.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    try:
        run()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        leave(end.code)


if __name__ == "__main__":
    main()
