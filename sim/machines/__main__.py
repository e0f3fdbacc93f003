"""python -m sim.machines"""

import sys

from sim.machines.command import main

if __name__ == "__main__":
    sys.exit(main())
