"""``python -m rulesearch`` is the command line, for launchers such as torchrun."""

from rulesearch.cli import main

if __name__ == "__main__":
    main()
