"""A MONAI Label server on loopback, driven over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.outputs.programs import free_port

START_S = 600.0
ANSWER_S = 600.0


class ServerError(RuntimeError):
    """An answer that is no success: status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class LabelServer:
    """The HTTP interface of a server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[bytes, str]:
        """Body and content type of an answer."""
        asked = urllib.request.Request(self.url + path, body, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
                return bytes(answer.read()), str(answer.headers["Content-Type"])
        except urllib.error.HTTPError as error:
            raise ServerError(error.code, error.read().decode(errors="replace")) from None

    def json(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        return json.loads(self.request(method, path, body)[0])

    def infer(self, model: str, params: Mapping[str, Any], **where: str) -> tuple[bytes, Any]:
        """File and JSON of an inference; ``where`` is ``image`` or ``session_id``."""
        body, kind = form({"params": json.dumps(dict(params)).encode()})
        query = urllib.parse.urlencode(where)
        answer, answered = self.request("POST", f"/infer/{model}?{query}", body, kind)
        parts = form_parts(answer, answered)
        return parts["image"], json.loads(parts["params"])

    def upload(self, files: Sequence[Path], uncompress: bool = False) -> str:
        """Identifier of a session with these files."""
        body, kind = form([("files", path.name, path.read_bytes()) for path in files])
        query = f"?uncompress={str(uncompress).lower()}"
        answer, _ = self.request("PUT", f"/session/{query}", body, kind)
        return str(json.loads(answer)["session_id"])


def form(
    fields: Mapping[str, bytes] | Sequence[tuple[str, str, bytes]],
) -> tuple[bytes, str]:
    """A multipart form of fields, or of files (field, name, content), and its content type."""
    boundary = uuid.uuid4().hex
    rows = (
        [(f'name="{name}"', value) for name, value in fields.items()]
        if isinstance(fields, Mapping)
        else [(f'name="{field}"; filename="{name}"', value) for field, name, value in fields]
    )
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in rows
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def form_parts(body: bytes, kind: str) -> dict[str, bytes]:
    """Content of each named part of a multipart form."""
    mark = b"--" + kind.partition("boundary=")[2].strip('"').encode()
    parts = {}
    for part in body.split(mark)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        parts[name] = content.removesuffix(b"\r\n")
    return parts


@contextmanager
def running_server(
    python: Path,
    app: Path,
    studies: str | Path,
    home: Path,
    conf: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[LabelServer]:
    """Start ``monailabel start_server``, wait until it answers, and stop it afterwards.

    Args:
        python: Python of the environment.
        app: The app's folder.
        studies: Folder or address of the datastore.
        home: Folder for everything that the server keeps under the user's home.
        conf: Settings of the app.
        variables: Further environment variables.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(python.parent / "monailabel"), "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    for name, value in (conf or {}).items():
        command += ["--conf", name, value]
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        **(variables or {}),
    }
    environment.pop("PYTHONPATH", None)
    log = home / "server.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            stdout=written,
            stderr=written,
            cwd=home,
            env=environment,
            start_new_session=True,  # a training is a process of its own
        )
    server = LabelServer(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                server.json("GET", "/info/")
                break
            except (OSError, ServerError):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
