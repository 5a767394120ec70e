"""``python -m alarmdigest``."""

import sys

from alarmdigest.cli import main

sys.exit(main())
