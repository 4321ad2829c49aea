"""Start the application: ``python -m spider_bundle.deploy``, or as the package of a container."""

from __future__ import annotations

import sys

from spider_bundle.deploy.app import main

if __name__ == "__main__":
    sys.exit(main())
