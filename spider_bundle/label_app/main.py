"""What ``monailabel start_server --app`` looks for; the app is in :mod:`spider_bundle.label_app`.

MONAI Label writes logs beside this file, so copy it to a folder of your own and name that folder.
"""

from spider_bundle.label_app.app import SpiderApp

__all__ = ["SpiderApp"]
