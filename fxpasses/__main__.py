"""``python -m fxpasses`` is the same as ``fxpasses``."""

from fxpasses.cli import main

if __name__ == "__main__":
    main()
