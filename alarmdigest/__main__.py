"""``python -m alarmdigest``."""

import sys

from alarmdigest.entry import main

sys.exit(main())
