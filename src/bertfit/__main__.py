"""The command `bertfit`, also as `python -m bertfit`."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is imported and set up ends it without a traceback."""
    try:
        from bertfit.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        from bertfit.cli.leaving import leave

        leave(end.code)


if __name__ == "__main__":
    main()
