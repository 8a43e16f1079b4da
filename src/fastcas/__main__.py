"""``python -m fastcas``: the command line."""

from fastcas.cli import main

if __name__ == "__main__":
    main()
