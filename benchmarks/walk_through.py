"""Follow docs/howto_batch.md on an empty machine: a minimal Debian 12 in a folder of its own.

    python -m benchmarks.walk_through --folder ../empty_machine

Needs root, debootstrap and a Debian mirror. The commands are taken from the page itself: from the
installation to the second batch; then the nightly command of the systemd unit in contrib/ as its
user, and the line of the crontab there, which a real cron runs (every minute here). REPOSITORY is
this clone. What the page promises is checked: the first batch ends with "1 done", all later ones
with "1 skipped". pip and apt are configured as here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "howto_batch.md"
CONTRIB = ROOT / "contrib"
SECTION = "## From an empty machine to the first batch"
PROMISED = ("1 planned", "1 done", "1 skipped")
NIGHT = """\
apt-get install --yes --quiet=2 cron >/dev/null
su -s /bin/bash spider <<'END'
umask {umask}
{command}
END
echo '{line}' | crontab -u spider -
cron
for second in $(seq 120); do grep -q '1 skipped' {log} 2>/dev/null && break; sleep 1; done
kill $(cat /var/run/crond.pid)
tail -n 1 {log}
"""
SAME_AS_HERE = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


def main() -> None:
    """Build the machine, follow the page, check the promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--bind", type=Path, nargs="*", default=[], help="folders pip needs")
    options = parser.parse_args()
    as_root, as_user = commands()
    machine = options.folder.resolve()
    shutil.rmtree(machine, ignore_errors=True)
    packages = "--include=ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(machine)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in SAME_AS_HERE:
        if Path(name).is_file():
            shutil.copy(name, machine / name[1:])
    shutil.copytree("/etc/apt/apt.conf.d", machine / "etc/apt/apt.conf.d", dirs_exist_ok=True)
    subprocess.run(["git", "clone", "--bare", "--quiet", ROOT, machine / "srv/spider"], check=True)
    # the clone is another user's there
    (machine / "etc/gitconfig").write_text("[safe]\n\tdirectory = *\n", encoding="utf-8")
    with mounted(machine, [Path("/proc"), Path("/dev"), *options.bind]):
        inside(machine, "apt-get update --quiet=2\n" + as_root)
        again = as_user.splitlines()[-1].replace(" --create-key-file", "")
        activate = ". /opt/spider/.venv/bin/activate\n"
        inside(
            machine,
            f"su -s /bin/bash spider <<'END'\n{activate}set -e\n{as_user}\n{again}\nEND",
            PROMISED,
        )
        inside(machine, night(), ("1 skipped", "1 skipped"))


def commands() -> tuple[str, str]:
    """Return the page's commands as root and as the user."""
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index(SECTION) :]
    as_root, as_user = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[:2]
    return as_root.replace("REPOSITORY", "/srv/spider"), as_user.strip()


def night() -> str:
    """Return what the systemd unit and the crontab do, as a script."""
    unit = (CONTRIB / "systemd" / "spider-batch.service").read_text(encoding="utf-8")
    crontab = (CONTRIB / "spider.cron").read_text(encoding="utf-8")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    umask = re.search(r"^UMask=(.*)$", unit, re.MULTILINE)
    line = re.search(r"^0 22 \* \* \* (.* >> (\S+) .*)$", crontab, re.MULTILINE)
    if command is None or umask is None or line is None:
        raise SystemExit("there is no unit or no crontab")
    return NIGHT.format(
        umask=umask[1], command=command[1], line=f"* * * * * {line[1]}", log=line[2]
    )


@contextmanager
def mounted(machine: Path, folders: list[Path]) -> Iterator[None]:
    """Folders of this machine at the same place in the other one."""
    places = []
    try:
        for folder in folders:
            place = machine / folder.relative_to("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", folder, place], check=True)
            places.append(place)
        yield
    finally:
        for place in reversed(places):
            subprocess.run(["umount", place], check=True)


def inside(machine: Path, script: str, promised: Sequence[str] = ()) -> None:
    """Run a script in the machine and check that it says what the page promises.

    Raises:
        SystemExit: A command failed, or a promise is not kept.
    """
    kept = {n: v for n, v in os.environ.items() if n.lower().startswith(("pip_", "http"))}
    environment = {
        **kept,
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    command = ["chroot", str(machine), "/bin/bash", "-e", "-c", script]
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE)
    print(done.stdout)
    if done.returncode:
        raise SystemExit(f"the page's commands ended with {done.returncode}")
    said = [line for line in done.stdout.splitlines() if line in PROMISED]
    if said != list(promised):
        raise SystemExit(f"promised: {', '.join(promised)}; said: {', '.join(said)}")


if __name__ == "__main__":
    main()
