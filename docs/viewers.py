"""Open a result in programs that were not made here, and photograph them: NiiVue and OHIF.

    mkdir packages
    (cd packages && npm pack @niivue/niivue@0.69.0 @ohif/app@3.12.10)
    python -m pip install playwright
    python docs/viewers.py packages study

Needs Chromium, Orthanc and its DICOMweb plugin (Debian: ``chromium orthanc orthanc-dicomweb``).
NiiVue gets CT and label map as NIfTI, those of the named study if there is one. OHIF gets the CT
series and the segmentation of the demo from Orthanc, where they were stored. All of it stays on the
loopback address.
"""

from __future__ import annotations

import argparse
import http.server
import json
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from pydicom import dcmread
from screenshots import IMAGES, save_small

from spider_bundle.demo import write_demo_pair
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES, Label

PATIENCE_S = 120.0
SIZE = {"width": 1500, "height": 850}
# WebGL without a graphics card
BROWSER = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
NIIVUE_PAGE = """<!doctype html><body style="margin:0;background:#000">
<div style="width:1400px;height:500px"><canvas id="view"></canvas></div>
<script type="module">
import {Niivue} from "/niivue/package/dist/index.js";
const view = new Niivue({backColor: [0, 0, 0, 1], crosshairWidth: 0.5});
await view.attachTo("view");
await view.loadVolumes([
  {url: "/study/ct.nii.gz", cal_min: -200, cal_max: 1200},
  {url: "/study/label.nii.gz", opacity: 0.45}]);
view.volumes[1].setColormapLabel(COLOURS);
view.updateGLVolume();
view.setSliceType(view.sliceTypeMultiplanar);
document.title = "ready";
</script>"""
OHIF_CONFIG = """window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true,
  disableConfirmationPrompts: true, investigationalUseDialog: {option: "never"},
  defaultDataSourceName: "dicomweb",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "dicomweb",
    configuration: {
      friendlyName: "Orthanc", name: "orthanc", wadoUriRoot: "/dicom-web",
      qidoRoot: "/dicom-web", wadoRoot: "/dicom-web", qidoSupportsIncludeField: false,
      imageRendering: "wadors", thumbnailRendering: "wadors", enableStudyLazyLoad: true,
      supportsWildcard: true, omitQuotationForMultipartRequest: true}}]};"""


def main() -> None:
    """Reconstruct if need be, open, photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="folder of the two packages of npm")
    parser.add_argument(
        "study", nargs="?", type=Path, help="folder with ct.nii.gz and label.nii.gz"
    )
    parser.add_argument("--browser", default="/usr/bin/chromium", help="program of Chromium")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder for the pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        for name in ("niivue", "ohif"):
            with tarfile.open(next(options.packages.glob(f"{name}*.tgz"))) as package:
                package.extractall(folder / name, filter="data")
        demo = reconstruct(folder)
        (folder / "study").symlink_to((options.study or demo).resolve())
        (folder / "dicom").symlink_to(demo / "dicom")
        browser = playwright.chromium.launch(executable_path=options.browser, args=BROWSER)
        page = browser.new_page(viewport=SIZE)
        with orthanc(folder) as archive:
            store(folder / "dicom", archive)
            with site(folder, archive) as address:
                photograph(page, open_niivue, folder, address, options.output / "niivue.png")
                photograph(page, open_ohif, folder, address, options.output / "ohif.png")
        browser.close()


def reconstruct(folder: Path) -> Path:
    """Results of the demo with DICOM."""
    frontal, lateral = write_demo_pair(folder / "pair")
    command = [sys.executable, "-m", "spider_bundle.cli", "infer", str(frontal), str(lateral)]
    subprocess.run([*command, "-o", str(folder / "results"), "--dicom"], check=True)
    return next((folder / "results").iterdir())


def open_niivue(page: Page, _: Path, address: str) -> None:
    """CT and label map as NIfTI, in three planes."""
    page.goto(f"{address}/niivue.html")
    page.wait_for_function("document.title == 'ready'", timeout=1000 * PATIENCE_S)


def open_ohif(page: Page, folder: Path, address: str) -> None:
    """CT series and segmentation, in three planes."""
    header = dcmread(folder / "dicom" / "seg.dcm", stop_before_pixels=True)
    study = f"StudyInstanceUIDs={header.StudyInstanceUID}"
    page.goto(f"{address}/viewer?{study}&hangingProtocolId=mpr")
    page.click("text=Skip all", timeout=1000 * PATIENCE_S)  # a tour of the program
    page.wait_for_load_state("networkidle", timeout=1000 * PATIENCE_S)
    page.dblclick(f"text={header.SeriesDescription.split(',')[0]}", timeout=1000 * PATIENCE_S)


def photograph(
    page: Page, show: Callable[[Page, Path, str], None], folder: Path, address: str, picture: Path
) -> None:
    """Open a viewer, wait until its picture stands still, and save it."""
    show(page, folder, address)
    before, end = b"", time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        time.sleep(10)  # without a graphics card it draws slowly
        now = page.screenshot()
        if now == before:
            break
        before = now
    raw = folder / "raw.png"
    raw.write_bytes(before)
    with Image.open(raw) as image:
        save_small(image.crop(image.getbbox()), picture)


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """Return an Orthanc with an empty archive; its address."""
    port = free_port()
    archive = str(folder / "archive")
    settings = {
        "Name": "viewers",
        "StorageDirectory": archive,
        "IndexDirectory": archive,
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{address}/system", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def store(dicom: Path, archive: str) -> None:
    """Store the CT series and the segmentation."""
    for path in [*sorted((dicom / "ct").iterdir()), dicom / "seg.dcm"]:
        request = urllib.request.Request(f"{archive}/instances", data=path.read_bytes())
        urllib.request.urlopen(request, timeout=60).close()


@contextmanager
def site(folder: Path, archive: str) -> Iterator[str]:
    """Serve the viewers and the study; requests for DICOMweb go on to Orthanc."""
    ohif = folder / "ohif" / "package" / "dist"
    red, green, blue = zip(*LABEL_COLOURS.values(), strict=True)
    opaque = [255 * (value != Label.BACKGROUND) for value in LABEL_COLOURS]
    names = [LABEL_NAMES[value] for value in LABEL_COLOURS]
    colours = {"R": red, "G": green, "B": blue, "A": opaque, "labels": names}
    pages = {
        "/niivue.html": ("text/html", NIIVUE_PAGE.replace("COLOURS", json.dumps(colours))),
        "/app-config.js": ("text/javascript", OHIF_CONFIG),
    }

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server looks for
            name = self.path.partition("?")[0]
            if name.startswith("/dicom-web"):
                self.forward()
            elif name in pages:
                kind, text = pages[name]
                self.reply(200, kind, text.encode())
            else:
                super().do_GET()

        def translate_path(self, path: str) -> str:
            name = path.partition("?")[0].lstrip("/")
            root = folder if name.startswith(("niivue/", "study/")) else ohif
            found = root / name
            # OHIF's pages are one page, which looks at its address itself
            return str(found if found.is_file() else ohif / "index.html")

        def forward(self) -> None:
            request = urllib.request.Request(archive + self.path)
            request.add_header("Accept", self.headers.get("Accept", "*/*"))
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                kind = answer.headers.get("Content-Type", "")
                self.reply(answer.status or 500, kind, answer.read())

        def reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def end_headers(self) -> None:
            # what OHIF's memory between threads needs
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def free_port() -> int:
    """Return a port of the loopback address that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
