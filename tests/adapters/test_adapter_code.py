"""An adapter's name in the identity ends in a digest of its local code, wherever that lies and whenever it runs."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.presets import adapter_from_file, load_model
from microscope_bench.metrics.registry import METRICS
from microscope_bench.run.measure_store import measure_store
from microscope_bench.system.lazy_registry import Registry
from microscope_bench.system.local_code import local_code_digest
from tests.toy import ToyAdapter, run

OURS = ("adapter", "my_mllm", "between", "kit", "installed", "plugged", "edited_module")
CODE = "from microscope_bench.adapters.hf import HFAdapter\nclass Mine(HFAdapter):\n    pass\n"
LAYOUTS = {
    "beside": {"adapter.py": "import my_mllm\n", "my_mllm.py": "X = 1\n"},
    "indirect": {"adapter.py": "import between\n", "between.py": "from my_mllm import X\n", "my_mllm.py": "X = 1\n"},
    "relative": {
        "adapter.py": "from kit.model import X\n",
        "kit/__init__.py": "",
        "kit/model.py": "from .deep.parts import X\n",
        "kit/deep/__init__.py": "",
        "kit/deep/parts.py": "X = 1\n",
    },
    "of a package": {
        "adapter.py": "from kit import model\n",
        "kit/__init__.py": "",
        "kit/model.py": "from . import parts as p\n",
        "kit/parts.py": "X = 1\n",
    },
    "what a package runs": {"adapter.py": "import kit.model\n", "kit/__init__.py": "X = 1\n", "kit/model.py": ""},
    "namespace": {"adapter.py": "from kit.model import X\n", "kit/model.py": "X = 1\n"},
    "lazy": {"adapter.py": "def later():\n    from my_mllm import X\n", "my_mllm.py": "X = 1\n"},
    "lazy by name": {
        "adapter.py": "import importlib\ndef later():\n    return importlib.import_module('my_mllm')\n",
        "my_mllm.py": "X = 1\n",
    },
    "every file of a package": {
        "adapter.py": "import kit\n",
        "kit/__init__.py": "import importlib, pkgutil\n"
        "for found in pkgutil.iter_modules(__path__):\n    importlib.import_module(f'{__name__}.{found.name}')\n",
        "kit/parts.py": "X = 1\n",
    },
    "by its path": {
        "adapter.py": "from importlib.util import module_from_spec, spec_from_file_location\nfrom pathlib import Path\n"
        "spec = spec_from_file_location('elsewhere', Path(__file__).parent / 'kit' / 'parts.py')\n"
        "parts = module_from_spec(spec)\nspec.loader.exec_module(parts)\n",
        "kit/parts.py": "X = 1\n",
    },
    "optional": {"adapter.py": "try:\n    import my_mllm\nexcept ImportError:\n    pass\n", "my_mllm.py": "X = 1\n"},
}


def write(root: Path, sources: dict[str, str]) -> Path:
    """Writes files, the one named adapter.py with an adapter; returns where that is."""
    for name, source in sources.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source + CODE * (name == "adapter.py"))
    return root / "adapter.py"


@pytest.fixture
def forgotten():
    """Forgets the modules that a test has imported, as a fresh process would."""

    def forget() -> None:
        for new in list(sys.modules):
            if new.partition(".")[0] in OURS:
                del sys.modules[new]

    yield forget
    forget()


@pytest.fixture
def digest(monkeypatch, forgotten):
    """The digest of an adapter's file in a fresh process, its folder on the path."""

    def digest(file: Path, *path: Path) -> str | None:
        with monkeypatch.context() as patch:
            for entry in (file.parent, *path):
                patch.syspath_prepend(str(entry))
            try:
                return local_code_digest(adapter_from_file(f"{file}:Mine")[1], is_local=True)
            finally:
                forgotten()

    return digest


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_edit_of_any_module_that_an_adapter_imports_is_another_adapter(layout, tmp_path, digest):
    sources = LAYOUTS[layout]
    file = write(tmp_path, sources)
    before = digest(file)
    assert digest(file) == before
    (edited,) = [name for name, source in sources.items() if source == "X = 1\n"]
    (tmp_path / edited).write_text("X = 2\n")
    assert digest(file) != before
    (tmp_path / edited).write_text("X = 1\n")
    assert digest(file) == before
    (tmp_path / "unused.py").write_text("Y = 1\n")
    assert digest(file) == before


def test_an_adapter_alone_is_named_by_its_file(tmp_path, tiny, forgotten):
    file = write(tmp_path, {"adapter.py": "import json\n"})
    info = load_model(f"{file}:Mine", {"pretrained": str(tiny("llama"))}, "cpu").info
    assert info.adapter == f"adapter.py:Mine@{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"


def test_code_in_a_zip_counts_too(tmp_path, digest):
    file = write(tmp_path / "a", {"adapter.py": "from kit.model import X\n"})
    digests = []
    for value in (1, 2):
        archive = tmp_path / f"{value}" / "kit.zip"
        archive.parent.mkdir()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("kit/__init__.py", "")
            zipped.writestr("kit/model.py", f"X = {value}\n")
        digests.append(digest(file, archive))
    assert digests[0] != digests[1]


def test_installed_code_and_this_package_do_not_count(tmp_path, digest):
    file = write(tmp_path, {"adapter.py": "import installed\n"})
    site = tmp_path / "site"
    write(site, {"installed.py": "X = 1\n", "installed-1.0.dist-info/METADATA": ""})
    before = digest(file, site)
    (site / "installed.py").write_text("X = 2\n")
    assert digest(file, site) == before
    assert local_code_digest(importlib.import_module("microscope_bench.adapters.hf")) is None
    assert local_code_digest(json) is None


def test_a_module_edited_after_its_import_is_neither_the_old_nor_the_new(tmp_path, monkeypatch):
    file = write(tmp_path, {"edited_module.py": "X = 1\n"}).parent / "edited_module.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("edited_module")
    before = local_code_digest(module)
    file.write_text("X = 2\n")
    assert local_code_digest(module) not in (before, hashlib.sha256(b"X = 2\n").hexdigest()[:8])
    file.write_text("X = 1\n")
    assert local_code_digest(module) == before


def test_a_loaded_adapter_has_its_code_in_its_identity(tiny_adapter):
    assert measured_model(ToyAdapter()).adapter == f"toy@{local_code_digest(sys.modules['tests.toy'])}"
    assert measured_model(tiny_adapter("llama")).adapter == "hf"


@pytest.mark.parametrize("editable", [False, True])
def test_a_plug_in_is_named_with_its_distribution(editable, tmp_path, monkeypatch, forgotten):
    """As pip leaves it: installed files, or the metadata alone and a path to the sources."""
    site, sources = tmp_path / "site-packages", tmp_path / "src"
    metadata = {
        "plug_in-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: plug-in\nVersion: 1.2\n",
        "plug_in-1.2.dist-info/entry_points.txt": "[some.group]\nplugged = plugged.adapter:Mine\n",
    }
    write(site, metadata)
    code = sources if editable else site
    write(code, {"plugged/adapter.py": "from .parts import X\nMine = X\n", "plugged/__init__.py": ""})
    for entry in (site, sources):
        monkeypatch.syspath_prepend(str(entry))
    codes = []
    for value in (1, 2):
        write(code, {"plugged/parts.py": f"X = {value}\n"})
        codes.append(Registry("adapter", {"ours": "json:loads"}, group="some.group").code_of("plugged"))
        forgotten()
    assert all(code.startswith("plug-in-1.2") for code in codes), codes
    assert (codes[0] != codes[1]) is editable
    assert [len(code) for code in codes] == [len("plug-in-1.2") + 9 * editable] * 2
    assert Registry("adapter", {"ours": "json:loads"}, group="some.group").code_of("ours") is None


CELL = """
from tests.toy import ToyAdapter, run
import json
FACTOR = 2
def scaled(x):
    return x * FACTOR
class Base(ToyAdapter):
    @classmethod
    def load(cls, args, *, device=None):
        return cls()
class Mine(Base):
    def residual(self, hidden):
        return scaled(hidden)
def unused():
    return 1
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("x * FACTOR", "x + FACTOR", False),
        ("FACTOR = 2", "FACTOR = 3", False),
        ("return scaled(hidden)", "return scaled(hidden) + 1", False),
        ("return cls()", "return cls(seed=1)", False),
        ("return 1", "return 2", True),
        ("import json", "# a comment\nimport json", True),
    ],
)
def test_a_class_of_a_notebook_counts_with_what_it_uses(old, new, same):
    digests = []
    for cell in (CELL, CELL.replace(old, new)):
        notebook = ModuleType("notebook_without_a_file")
        exec(cell, vars(notebook))
        digests.append(local_code_digest(notebook, made=vars(notebook)["Mine"]))
    assert None not in digests
    assert (digests[0] == digests[1]) is same


def test_the_code_of_a_metric_is_in_the_identity_but_not_in_the_states(tmp_path, monkeypatch):
    plain = run(None, ToyAdapter(), store=tmp_path / "store", keep_store=True)
    monkeypatch.setattr(METRICS, "code_of", {"anisotropy": "their-metrics-1.0"}.get)
    theirs = run(None, ToyAdapter(), store=tmp_path / "store", keep_store=True)
    assert (plain.identity.metric_code, theirs.identity.metric_code) == ({}, {"anisotropy": "their-metrics-1.0"})
    again = measure_store(tmp_path / "store", progress=False)
    assert again.identity == theirs.identity
