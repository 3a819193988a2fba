"""`python -m bertfit` is the command `bertfit`."""

from bertfit.cli.main import main

if __name__ == "__main__":
    main()
