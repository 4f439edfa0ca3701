"""`python -m sandboxd.daemon`."""

import sys

from sandboxd.daemon.main import main

sys.exit(main())
