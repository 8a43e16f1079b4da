"""``fastcas`` and ``python -m fastcas``: the command line, whose loading may be interrupted too."""

import sys


def main() -> None:
    try:
        from fastcas import cli
    except KeyboardInterrupt:
        print("fastcas: interrupted", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
