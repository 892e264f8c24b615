"""``python -m edgecnn``."""

from edgecnn.cli.__main__ import main

if __name__ == "__main__":
    main()
