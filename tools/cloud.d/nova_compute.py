"""The nova-compute program: Debian's package of it brings 100 MB of dependencies for these lines."""

import sys

from nova.cmd.compute import main

if __name__ == "__main__":
    sys.argv[0] = "nova-compute"
    sys.exit(main())
