"""`python -m sim.replay_log`: the name that scripts know for `python -m fastserve.flightlog.replay`."""

import sys

from fastserve.flightlog.replay import main, replay_log

__all__ = ["main", "replay_log"]

if __name__ == "__main__":
    sys.exit(main())
