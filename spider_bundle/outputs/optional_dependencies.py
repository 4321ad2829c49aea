"""Whether the packages that optional outputs need are installed, asked before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from spider_bundle.errors import Code, SpiderError

#: Packages of each optional output with the lowest major version, by the name of the extra.
EXTRAS: Mapping[str, Mapping[str, int]] = {
    # highdicom and the listener need pydicom 3; everything else here works with 2.4 too
    "cluster": {"ray": 2},
    "dicom": {"highdicom": 0, "pydicom": 3},
    "mesh": {"scikit-image": 0},
    "onnx": {"onnx": 1, "onnxscript": 0},
    "pacs": {"pynetdicom": 2, "pydicom": 3},
}


def require_extra(name: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        name: Key of :data:`EXTRAS`.

    Raises:
        SpiderError: R03, one is absent or too old; the message names it and says what to do.
    """
    for package, major in EXTRAS[name].items():
        try:
            installed = int(version(package).split(".")[0]) >= major
        except PackageNotFoundError:
            installed = False
        if not installed:
            wanted = f"{package} {major} or later" if major else package
            raise SpiderError(
                Code.MISSING_PACKAGE,
                f"what was asked for needs {wanted}",
                action=f"pip install -e '.[{name}]' in the bundle's folder, or leave it out",
            )
