"""Radiographs in from a PACS and results out to it, by DICOM C-STORE; needs the extra ``pacs``.

Raises:
    SpiderError: R03, on import, if pynetdicom is not installed.
"""

from spider_bundle.outputs.optional_dependencies import require_extra

require_extra("pacs")
