"""Studies are found wherever they are, and no archive does harm."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import FileSet
from pydicom.filewriter import write_dataset

from spider_bundle.archives import ArchiveLimits, unpack
from spider_bundle.batch import finder
from spider_bundle.batch.finder import SANDBOX_MODULES, Found, StudyFinder
from spider_bundle.batch.profile import Profile, Rule
from spider_bundle.batch.sandbox import CallStopped, Sandbox
from spider_bundle.dicom.load import load_radiographs
from spider_bundle.dicom.pair import pair_films
from spider_bundle.dicom.studies import find_studies
from spider_bundle.errors import SpiderError
from spider_bundle.files import file_sha256
from tests.batch import readers
from tests.batch.conftest import contents

Spool = Callable[..., Path]
KEY = "a key of the site"


Find = Callable[..., Found]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One process for all searches."""
    process = Sandbox(SANDBOX_MODULES)
    yield process
    process.close()


@pytest.fixture
def find(sandbox: Sandbox) -> Find:
    def search(source: Path, workspace: Path, **options: object) -> Found:
        workspace.mkdir(exist_ok=True)
        return StudyFinder(source, workspace, KEY, sandbox=sandbox, **options).find()  # type: ignore[arg-type]

    return search


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def test_listing_of_a_large_tree_can_be_stopped(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}").touch()
    answers = iter([False, False, True])
    with pytest.raises(CallStopped):
        StudyFinder(tmp_path, tmp_path, KEY, stop=lambda: next(answers)).signatures()


def test_tree_zip_and_dicomdir_give_the_same_studies(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    source, workspace = spool(2), tmp_path / "workspace"
    wanted = find(source, workspace).jobs
    assert len(wanted) == 2
    packed = Path(shutil.make_archive(str(tmp_path / "night"), "zip", source))
    medium = FileSet()
    for path in source.rglob("*.dcm"):
        medium.add(path)
    medium.write(tmp_path / "medium")
    for given in (packed, tmp_path / "medium" / "DICOMDIR", tmp_path / "medium"):
        jobs = find(given, workspace).jobs
        assert {(j.study_key, j.inputs) for j in jobs} == {(j.study_key, j.inputs) for j in wanted}
        assert {file_sha256(j.paths[0]) for j in jobs} == {file_sha256(j.paths[0]) for j in wanted}
    assert all(job.study_key != find(source, workspace).jobs[0].inputs for job in wanted)


def test_a_study_may_be_spread_over_archives(spool: Spool, tmp_path: Path, find: Find) -> None:
    pair = spool(1) / "s0"
    source = tmp_path / "spread"
    source.mkdir()
    for role in ("frontal", "lateral"):
        archive(source / f"{role}.zip", {"IM1": (pair / f"{role}.dcm").read_bytes()})
    found = find(source, tmp_path / "workspace")
    assert (len(found.jobs), len(found.refusals)) == (1, 0)


def test_names_in_an_archive_lead_nowhere(spool: Spool, tmp_path: Path, find: Find) -> None:
    pair = spool(1) / "s0"
    frontal, lateral = ((pair / f"{role}.dcm").read_bytes() for role in ("frontal", "lateral"))
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = archive(tmp_path / "a.zip", {"../../evil": frontal, "/etc/evil": lateral})
    with zipfile.ZipFile(path, "a") as target:
        target.writestr(link, "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    workspace = tmp_path / "workspace"
    found = find(path, workspace)
    assert len(found.jobs) == 1
    written = set(tmp_path.rglob("*")) - before
    assert all(p.is_relative_to(workspace) for p in written)
    assert not any(p.is_symlink() for p in written)
    (folder,) = workspace.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(p.name for p in folder.iterdir()) == ["000001", "000002", "000003"]


def test_file_without_a_name_is_unpacked_as_others_are(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"unnamed": b"first", "named": b"second"})
    path.write_bytes(path.read_bytes().replace(b"unnamed", bytes(7)))
    folder = tmp_path / "out"
    folder.mkdir()
    unpack(path, folder)
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [b"first", b"second"]


def encrypted(path: Path) -> Path:
    content = bytearray(archive(path, {"a": b"secret"}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    return path


def liar(path: Path) -> Path:
    """Declares one byte for a member that unpacks to many."""
    content = bytearray(archive(path, {"a": bytes(50_000)}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", 1)
    path.write_bytes(content)
    return path


def data_set(film: bytes) -> bytes:
    """A film without preamble and file meta information."""
    return film[144 + int.from_bytes(film[140:144], "little") :]


def implicit(film: bytes) -> bytes:
    """The same with implied VRs."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = True, True
    write_dataset(stream, pydicom.dcmread(io.BytesIO(film)))
    return stream.getvalue()


def zipped(film: bytes, name: str = "a") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr(name, film)
    return stream.getvalue()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "without preamble": data_set,
    "without preamble, VRs implied": implicit,
    "without meta information": lambda film: bytes(128) + b"DICM" + data_set(film),
    "meta information without preamble": lambda film: film[132:],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_film_is_read_however_it_begins(
    form: str, spool: Spool, tmp_path: Path, find: Find
) -> None:
    source = spool(1)
    (whole,) = find_studies(source, key=KEY).studies
    pixels = load_radiographs(pair_films(whole.films)).frontal.pixels
    for path in (source / "s0").iterdir():
        path.write_bytes(FORMS[form](path.read_bytes()))
    (study,) = find_studies(source, key=KEY).studies
    assert (study.key, study.is_complete) == (whole.key, True)
    assert np.array_equal(load_radiographs(pair_films(study.films)).frontal.pixels, pixels)
    assert [job.study_key for job in find(source, tmp_path / "w").jobs] == [whole.key]


MAYBE_OURS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "E01 cut in its header": ("x.dcm", lambda film: film[:700]),
    "E01 cut in its SOP class": (
        "x",
        lambda film: film[: film.rindex(b"1.2.840.10008.5.1.4.1.1.1.1", 0, 600) + 19],
    ),
    "E01 cut before its SOP class": ("x", lambda film: film[:300]),
    "E01 cut in its preamble": ("x.dcm", lambda film: film[:90]),
    "E01 empty": ("1.2.840.7", lambda film: b""),
    "E01 zeros": ("x.IMA", lambda film: bytes(len(film))),
    "E01 data set cut": ("x", lambda film: data_set(film)[:20]),
    "E02 deflated": (
        "x",
        lambda film: film.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99").replace(
            b"UI\x14\0" + b"1.2.840.10008.1.2.1.99", b"UI\x16\0" + b"1.2.840.10008.1.2.1.99"
        ),
    ),
    "A01 archive in an archive": ("x.zip", lambda film: zipped(zipped(film, "b.zip"))),
}


@pytest.mark.parametrize("kind", MAYBE_OURS)
def test_what_may_be_a_film_is_refused_alike_everywhere(
    kind: str, spool: Spool, tmp_path: Path, find: Find
) -> None:
    name, spoil = MAYBE_OURS[kind]
    source = spool(1)
    film = (source / "s0" / "frontal.dcm").read_bytes()
    (source / name).write_bytes(spoil(film))
    here, batch = find_studies(source, key=KEY), find(source, tmp_path / "w")
    assert [len(here.studies), len(batch.jobs)] == [1, 1]
    assert [r.codes for r in here.refusals] == [r.codes for r in batch.refusals] == [[kind[:3]]]
    if name != "x.zip":  # which the batch opens, and then refuses what is in it
        assert [r.study_key for r in here.refusals] == [r.study_key for r in batch.refusals]
        assert [r.files for r in here.refusals] == [(source / name,)]


def test_links_are_followed_and_one_that_leads_nowhere_is_refused(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    films, source = spool(2, "elsewhere"), tmp_path / "in"
    (source / "files").mkdir(parents=True)
    (source / "folder").symlink_to(films / "s0", target_is_directory=True)
    for film in (films / "s1").iterdir():
        (source / "files" / film.name).symlink_to(film)
    (source / "back").symlink_to(source, target_is_directory=True)
    (source / "gone.dcm").symlink_to(films / "never.dcm")
    (source / ".#lock").symlink_to("editor@host.1234")
    here, batch = find_studies(source, key=KEY), find(source, tmp_path / "w")
    assert {study.key for study in here.studies} == {job.study_key for job in batch.jobs}
    assert [len(here.studies), here.foreign_files, batch.foreign_files] == [2, 0, 0]
    assert [r.codes for r in here.refusals] == [r.codes for r in batch.refusals] == [["A05"]]
    assert here.refusals[0].study_key == batch.refusals[0].study_key


def test_what_is_certainly_foreign_is_counted_only(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    source = spool(1)
    for name, content in {
        "letter.docx": zipped(b"<xml/>", "word/document.xml"),
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "study.done": b"",
        ".hidden": b"",
        "volume.raw": bytes(5000),
        "notes": b"Dear Ms Doe",
    }.items():
        (source / name).write_bytes(content)
    here, batch = find_studies(source, key=KEY), find(source, tmp_path / "w")
    assert (here.refusals, here.foreign_files) == ((), 6)
    assert (list(batch.refusals), batch.foreign_files) == ([], 6)


def test_small_archives_with_zip64_records_are_read(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    """As streams are zipped, beside a complete ordinary end and beside one that says nothing."""
    folder = spool(1) / "s0"
    films = {path.name: path.read_bytes() for path in folder.iterdir()}
    data = archive(tmp_path / "plain.zip", films).read_bytes()
    end = data.rfind(b"PK\5\6")
    count, size, start = struct.unpack("<HII", data[end + 10 : end + 20])
    for number, told in enumerate([size, 5 << 20]):
        record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, told, start)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
        silent = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2, 0)
        for name, last in (("ordinary", data[end:]), ("silent", silent)):
            path = tmp_path / f"{name}{number}.zip"
            path.write_bytes(data[:end] + record + locator + last)
            found = find(path, tmp_path / "w")
            wanted = (1, []) if told == size else (0, [["A02"]])
            assert (len(found.jobs), [r.codes for r in found.refusals]) == wanted, name


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: archive(p, {str(n): b"" for n in range(11)}), "A02"),
        (lambda p: archive(p, {"a": os.urandom(150_000)}), "A02"),
        (lambda p: archive(p, {str(n): os.urandom(90_000) for n in range(3)}), "A02"),
        (lambda p: archive(p, {"a": bytes(90_000)}, zipfile.ZIP_LZMA), "A01"),
        (liar, "A01"),
        (encrypted, "A01"),
        (lambda p: p.write_bytes(archive(p, {"a": os.urandom(9000)}).read_bytes()[:5000]), "A01"),
        (lambda p: p.write_bytes(b"PK\x05\x06"), "A01"),
    ],
    ids=["members", "member", "total", "method", "liar", "encrypted", "cut", "empty"],
)
def test_archives_beyond_the_limits_are_refused(
    make: Callable[[Path], object], code: str, tmp_path: Path, find: Find
) -> None:
    path = tmp_path / "a.zip"
    make(path)
    limits = ArchiveLimits(members=10, member_bytes=100_000, total_bytes=200_000)
    found = find(path, tmp_path / "workspace", limits=limits)
    assert [refusal.codes for refusal in found.refusals] == [[code]]
    assert [fact["role"] for fact in found.refusals[0].findings] == ["batch"]
    assert not list((tmp_path / "workspace").iterdir())


def test_bomb_is_not_unpacked_far(tmp_path: Path, find: Find) -> None:
    """64 MB of zeros in 64 kB: refused at the ratio, after little more than a megabyte."""
    path = archive(tmp_path / "bomb.zip", {"a": bytes(64 << 20)})
    assert path.stat().st_size < 100_000
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(SpiderError, match="A02"):
        unpack(path, folder)
    assert sum(p.stat().st_size for p in folder.iterdir()) < 40 << 20
    buffer = io.BytesIO()
    buffer.write(path.read_bytes())
    nested = archive(tmp_path / "nested.zip", {"inner.zip": buffer.getvalue()})
    found = find(nested, tmp_path / "workspace")
    assert (len(found.jobs), len(found.refusals), found.foreign_files) == (0, 0, 1)


def test_output_below_the_input_is_passed_over(spool: Spool, tmp_path: Path, find: Find) -> None:
    source = spool(2)
    found = find(source, tmp_path / "workspace", excluded=source / "s1")
    assert len(found.jobs) == 1


def test_headers_are_checked_with_the_overrides_of_the_profile(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    source = spool(2)
    for path in (source / "s0").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.DistanceSourceToDetector
        dataset.Manufacturer = "Doe Imaging"
        dataset.save_as(path)
    before = contents(source)
    found = find(source, tmp_path / "workspace")
    assert [refusal.codes for refusal in found.refusals] == [["E11", "E14"]]
    profile = Profile(
        [
            Rule(match={"Manufacturer": "x"}, overrides={}),
            Rule(match={"Manufacturer": "DOE*"}, overrides={"sdd": 1150}),
        ]
    )
    found = find(source, tmp_path / "workspace", profile=profile)
    assert sorted(str(job.rule) for job in found.jobs) == ["2", "None"]
    assert contents(source) == before


def changed(path: Path, **attributes: object) -> None:
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def test_equal_object_uids_lose_no_study(spool: Spool, tmp_path: Path, find: Find) -> None:
    """Some anonymisers give the objects of all studies the same UIDs."""
    source = spool(1)
    shutil.copytree(source / "s0", source / "copy")
    assert len(find(source, tmp_path / "workspace").jobs) == 1
    for path in (source / "copy").iterdir():  # the same objects on another way
        dataset = pydicom.dcmread(path)
        dataset.file_meta.SourceApplicationEntityTitle = "ANOTHER"
        dataset.save_as(path)
    assert len(find(source, tmp_path / "workspace").jobs) == 1
    for path in (source / "copy").iterdir():
        changed(path, StudyInstanceUID="1.2.3", PatientID="another")
    found = find(source, tmp_path / "workspace")
    assert (len(found.jobs), len(found.refusals)) == (2, 0)


def test_another_film_under_the_same_uid_is_not_passed_over(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    source = spool(1)
    shutil.copytree(source / "s0", source / "corrected")
    changed(source / "corrected" / "frontal.dcm", KVP=81)
    found = find(source, tmp_path / "workspace")
    assert [refusal.codes for refusal in found.refusals] == [["E06"]]
    assert not found.jobs


CLOSED = """
import json, os, sys
from pathlib import Path
from spider_bundle.batch.finder import StudyFinder

if __name__ == "__main__":
    source, workspace = map(Path, sys.argv[1:])
    modes = {source / "s1" / "frontal.dcm": 0, source / "s2": 0, source / "s3": 0o400}
    found = StudyFinder(source, workspace, "key")
    for path, mode in modes.items():
        path.chmod(mode)
    first = found.find()
    for path in modes:
        path.chmod(0o700)
    second = found.find()
    told = [(len(f.jobs), sorted(c for r in f.refusals for c in r.codes)) for f in (first, second)]
    print(json.dumps([told, [r.findings[0]["message"] for r in first.refusals]]))
"""


def test_what_the_user_of_the_batch_must_not_read_is_refused(spool: Spool, tmp_path: Path) -> None:
    """A file; a folder; a folder whose files can be listed and not opened. Then all is mended."""
    source, workspace = spool(4), tmp_path / "workspace"
    workspace.mkdir()
    script = tmp_path / "closed.py"
    script.write_text(CLOSED)
    command = [sys.executable, str(script), str(source), str(workspace)]
    if os.geteuid() == 0:  # who reads everything
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv cannot give up its rights")
        lacking = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={lacking}", f"--inh-caps={lacking}"]
        if subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("root may not give up its rights here")
        command = [*prefix, *command]
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    told, messages = json.loads(ended.stdout)
    assert told == [[1, ["A05", "A05", "A05", "A05", "E06"]], [4, []]]
    assert not any(str(tmp_path) in message for message in messages)


def test_archive_without_room_is_refused(spool: Spool, tmp_path: Path, find: Find) -> None:
    pair = spool(1) / "s0"
    path = archive(tmp_path / "a.zip", {p.name: p.read_bytes() for p in pair.iterdir()})
    found = find(path, tmp_path / "workspace", reserve=1 << 60)
    assert [refusal.codes for refusal in found.refusals] == [["A06"]]
    assert not found.jobs
    assert not list((tmp_path / "workspace").iterdir())


def test_archive_that_the_disk_cannot_read_takes_no_other_down(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "unpack_archive", readers.torn)
    source, workspace = spool(1), tmp_path / "workspace"
    workspace.mkdir()
    archive(source / "a.zip", {"a": b"a"})
    search = StudyFinder(source, workspace, KEY)
    found = search.find()
    search.close()
    assert [refusal.codes for refusal in found.refusals] == [["A05"]]
    assert len(found.jobs) == 1
    assert not list(workspace.iterdir())


def test_secondary_captures_are_found_where_the_site_takes_them(
    spool: Spool, tmp_path: Path, find: Find
) -> None:
    source = spool(1)
    for path in (source / "s0").iterdir():
        changed(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    assert find(source, tmp_path / "workspace").other_objects == 2
    profile = Profile((), {"allow_secondary_capture": True})
    found = find(source, tmp_path / "workspace", profile=profile)
    assert (found.other_objects, len(found.jobs) + len(found.refusals)) == (0, 1)
