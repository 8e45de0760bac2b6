"""`python -m edgeoe`, which torchrun uses."""

import sys

from edgeoe.import_path import import_path

sys.path[:] = import_path()  # `-m` puts the working folder first, and what lies there is not to be imported

from edgeoe.cli import main  # noqa: E402 - from that path

if __name__ == "__main__":
    main()
