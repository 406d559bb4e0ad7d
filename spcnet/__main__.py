"""`python -m spcnet` is the command `spcnet`."""

import sys

from spcnet.cli import main

sys.exit(main())
