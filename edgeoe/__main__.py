"""Entry point of `python -m edgeoe`, which torchrun uses."""

import sys

from edgeoe.import_path import import_path

sys.path[:] = import_path()  # `-m` puts the working folder first; no module is imported from there

from edgeoe.cli import main  # noqa: E402 - after the path is set

if __name__ == "__main__":
    main()
