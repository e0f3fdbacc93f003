"""`python -m fastserve.processes.served FLAGS`: `fastserve serve FLAGS`, without .env, that ends with its parent."""

from __future__ import annotations

import os
import sys

from fastserve.processes.child import OURS
from fastserve.processes.parent import end_with_parent


def main() -> int:
    from fastserve.__main__ import main as command

    os.environ[OURS + "DOTENV"] = "off"  # as fastserve.server.config.sources reads it
    end_with_parent()
    return command(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
