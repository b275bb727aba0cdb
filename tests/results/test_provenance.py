from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from microscope_bench import __version__
from microscope_bench.results import provenance
from microscope_bench.results.provenance import environment, failure, without_directories


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/home/alice/models/llava/", "llava"),
        ("~/models/llava", "llava"),
        ("~alice/models/llava", "llava"),
        (r"C:\Users\alice\llava", "llava"),
        (r"\\server\share\alice\llava", "llava"),
        ("file:///home/alice/llava", "llava"),
        ("'pretrained=/home/alice/llava,dtype=float32'", "'pretrained=llava,dtype=float32'"),
        ('{"data_dir": "/home/alice/scienceqa"}', '{"data_dir": "scienceqa"}'),
        ("/home/alice: no such directory", "~: no such directory"),
        ("in '/home/John Smith'.", "in '~'."),
        ("(/Users/alice)", "(~)"),
        (r"data_dir=C:\Users\alice", "data_dir=~"),
    ],
)
def test_paths_are_cut_down(said: str, kept: str) -> None:
    assert without_directories(said) == kept


def test_the_home_directory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/alice")
    assert without_directories("/srv/people/alice: no space") == "~: no space"
    assert without_directories("/srv/people/alice/x: no space, org/name") == "x: no space, org/name"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no file '/home/John Smith/my data/x y.png' there", "no file 'x y.png' there"),
        ("no file \"/home/John O'Neil, Sr/x.png\", 'a' or 'b'", "no file \"x.png\", 'a' or 'b'"),
        ("b'/home/John Smith/x', `/home/John Smith/y`", "b'x', `y`"),
        ("OSError(\"no '/home/John Smith/x'\")", "OSError(\"no 'x'\")"),
        ("the model's '/home/John Smith/x' isn't", "the model's 'x' isn't"),
    ],
)
def test_a_quoted_path_is_cut_as_a_whole(said: str, kept: str) -> None:
    assert without_directories(said) == kept


def test_own_directories_may_hold_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here, temporary = (tmp_path / name for name in ("John Smith", "my work, new", "a temp"))
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(here)
    said = f"{home}/a/x: gone, {here}/b/y: gone, file://{temporary}/c/z gone, in {home}"
    assert without_directories(said) == "x: gone, y: gone, z gone, in ~"


@pytest.mark.parametrize(
    "said",
    ["unsupported operand type(s) for //: 'int' and 'str'", "x //= 2, a / b and 'c // d' or '//'", "'org/name' or a/b"],
)
def test_prose_without_a_path_stays(said: str) -> None:
    assert without_directories(said) == said


def test_messages_lose_directories_but_not_words() -> None:
    said = (
        "[Errno 2] No such file or directory: '/home/alice/data/7/image.png' (see ~/notes/a.txt or org/name), 3/4 done"
    )
    assert without_directories(said) == (
        "[Errno 2] No such file or directory: 'image.png' (see a.txt or org/name), 3/4 done"
    )
    error = failure(FileNotFoundError(2, "No such file or directory", "/home/alice/x"), "capture")
    assert (error.type, error.where) == ("FileNotFoundError", "capture")
    assert "alice" not in error.message


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "PACKAGES", ("jsonschema", "no-such-package"))
    here = environment(device="cpu", processor="P", image_processor=None, command="microscope-bench run")
    assert here.package_version == __version__
    assert list(here.packages) == ["jsonschema"]
    assert str(tmp_path.parent) not in str(here)
    assert (here.commit is None) == (here.dirty is None)


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checkout(root: Path) -> Path:
    package = root / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(root, "init")
    git(root, "add", "package")
    git(root, "commit", "-m", "first")
    return package


def test_the_commit_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, other = checkout(tmp_path / "ours"), checkout(tmp_path / "elsewhere")
    git(other.parent, "commit", "--allow-empty", "-m", "second")
    head = git(package.parent, "rev-parse", "HEAD")
    monkeypatch.chdir(other.parent)
    monkeypatch.setenv("GIT_DIR", str(other.parent / ".git"))
    assert provenance._checkout(package) == (head, False)
    (package.parent / "results.json").write_text("{}")
    assert provenance._checkout(package) == (head, False), "a result file does not make the code dirty"
    (package / "new.py").write_text("")
    assert provenance._checkout(package) == (head, True)


def test_an_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout(tmp_path / "project")
    site = tmp_path / "project" / "venv" / "site-packages" / "package"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path / "project")
    assert provenance._checkout(site) == (None, None), "inside somebody's checkout"
    copied = tmp_path / "project" / "copied"
    copied.mkdir()
    (copied / "__init__.py").write_text("")
    assert provenance._checkout(copied) == (None, None), "copied into somebody's checkout, not part of it"


def test_no_git_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = checkout(tmp_path / "ours")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._checkout(package) == (None, None)


def test_a_message_that_is_no_text_can_be_written_all_the_same() -> None:
    """Of a file, for instance, whose name is no UTF-8: a result that cannot be written would be the greater loss."""
    said = failure(OSError("cannot open x\udcff\x1b[2J.png\n" + "y" * 20_000), "capture").message
    assert said.startswith("cannot open x [2J.png\n")
    assert len(said.encode()) < 10_010
