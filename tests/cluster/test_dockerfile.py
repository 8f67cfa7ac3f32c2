"""The image's recipe, as far as it can be read: nothing is built here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = re.sub(r"\\\n\s*", " ", (ROOT / "cluster" / "Dockerfile").read_text()).splitlines()
STEPS = [line.split(None, 1) for line in LINES if line and not line.startswith("#") and not line.startswith(" ")]


def test_both_targets_build_on_stages_that_are_there() -> None:
    known: set[str] = set()
    for word, rest in STEPS:
        if word == "FROM":
            image, _, name = rest.split()
            assert image in known or re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", image), image  # pinned
            known.add(name)
    assert {"cpu", "cuda"} <= known


def test_all_that_is_copied_is_there_and_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for word, rest in STEPS:
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert name not in ignored
    assert {".venv", ".git", "workspace"} <= set(ignored)


def test_it_does_not_run_as_root() -> None:
    stages: dict[str, list[str]] = {}
    for word, rest in STEPS:
        if word == "FROM":
            stages[name := rest.split()[2]] = []
        elif word == "USER":
            stages[name].append(rest)
    assert stages["cpu"] == stages["cuda"] == ["1000"]


def test_a_login_shell_finds_what_is_installed(tmp_path: Path) -> None:
    """`ray up` runs `bash --login`, and Debian's /etc/profile sets PATH anew before it reads the files of /etc/profile.d."""
    (command,) = (rest for word, rest in STEPS if word == "RUN" and "/etc/profile.d/" in rest)
    write = command.partition(" && ")[2]
    subprocess.run(["sh", "-e", "-c", write.replace("/etc/profile.d", str(tmp_path))], check=True)
    profile = "PATH=/usr/local/bin:/usr/bin:/bin; export PATH\n"
    for file in (None, *tmp_path.glob("*.sh")):
        shell = subprocess.run(
            ["bash", "-c", profile + (f". {file}\n" if file else "") + "printenv PATH"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert shell.stdout.strip() == ("/opt/venv/bin:" if file else "") + "/usr/local/bin:/usr/bin:/bin"
    assert [f.suffix for f in tmp_path.iterdir()] == [".sh"]  # others are passed over
    (paths,) = (re.findall(r"PATH=(\S+):\$PATH", rest) for word, rest in STEPS if word == "ENV" and "PATH=" in rest)
    assert paths == ["/opt/venv/bin"]


def test_requirements_are_those_of_the_project() -> None:
    (command,) = (rest for word, rest in STEPS if word == "RUN" and "tomllib" in rest)
    found = re.search(r'python -c "(.*)" > /tmp/requirements.txt', command)
    assert found is not None
    said = subprocess.run([sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert any(line.startswith("ray[") for line in said)
    assert any(line.startswith("onnxruntime") for line in said)
    assert (ROOT / "constraints.txt").read_text().count("\ntorch==") == 1
