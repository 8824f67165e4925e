"""``python -m dimts COMMAND ...`` is the command `dimts`."""

from dimts.cli import main

if __name__ == "__main__":
    main()
