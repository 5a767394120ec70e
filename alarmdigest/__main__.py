"""``python -m alarmdigest``."""

import sys

from alarmdigest.cli.entry import main

sys.exit(main())
