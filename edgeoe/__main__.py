"""`python -m edgeoe`, which torchrun uses."""

from edgeoe.cli import main

if __name__ == "__main__":
    main()
