"""A picture in any container, read by any way, is one picture: one hash, one data revision, one result."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from microscope_bench import evaluate
from microscope_bench.capture.fingerprints import media_sha256
from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.tasks import Task, load_task
from tests.picture_tasks import STRING, TASK, WAYS, task_of
from tests.stored_pictures import TURNS, stored, tag, turned

NUMBERS = np.random.default_rng(1).integers(0, 256, (7, 5, 3), dtype=np.uint8)
NUMBERS[:3, :2] = 255  # what can be clear
PLAIN = Image.fromarray(NUMBERS)
GREY = PLAIN.convert("L")
QUESTION = {"question": "What?", "answer": 1}


def fingerprint(task: Task) -> tuple[str | None, str]:
    return media_sha256(task.example(0)), task.dataset.revision


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, tuple[str | None, str]]:
    root = tmp_path_factory.mktemp("plain")
    pictures = {"colour": PLAIN, "grey": GREY.convert("RGB")}
    return {
        name: fingerprint(task_of(root / name, [stored(picture)], [QUESTION], "decoded"))
        for name, picture in pictures.items()
    }


def black_behind(shown: Image.Image) -> Image.Image:
    """White made clear, with black below."""
    pixels = np.asarray(shown)
    white = (pixels == 255).all(axis=2)
    return Image.fromarray(np.dstack([np.where(white[..., None], 0, pixels), np.where(white, 0, 255)]).astype(np.uint8))


def clear_colour(shown: Image.Image) -> bytes:
    """White as a colour of its own that tRNS makes clear."""
    pixels = np.asarray(shown).copy()
    pixels[(pixels == 255).all(axis=2)] = (1, 2, 3)
    return stored(Image.fromarray(pixels), transparency=(1, 2, 3))


COLOURS = {
    "RGB": lambda: PLAIN,
    "RGBA": lambda: black_behind(PLAIN),
    "L": lambda: GREY,
    "LA": lambda: black_behind(GREY.convert("RGB")).convert("LA"),
    "I;16": lambda: Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257),
    "I": lambda: Image.fromarray(np.asarray(GREY).astype(np.int32)),
    "F": lambda: Image.fromarray(np.asarray(GREY, np.float32) / 255),
    "P": lambda: GREY.convert("P"),
    "CMYK": lambda: PLAIN.convert("CMYK"),
}
CONTAINERS = {
    "PNG": ({}, {"RGB", "RGBA", "L", "LA", "I;16", "P"}, True),
    "WEBP": ({"lossless": True}, {"RGB", "RGBA"}, True),
    "TIFF": ({}, {"RGB", "RGBA", "L", "LA", "I;16", "I", "F", "P", "CMYK"}, True),
    "BMP": ({}, {"RGB", "L", "P"}, False),
    "GIF": ({}, {"L", "P"}, False),
    "PPM": ({}, {"RGB", "L", "I;16"}, False),
}
KINDS = [(mode, kind) for kind, (_, modes, _) in CONTAINERS.items() for mode in sorted(modes)]


@pytest.mark.parametrize("n", [8, pytest.param(300, marks=pytest.mark.heavy)])
def test_container_mode_orientation_and_way_give_one_picture(n, expected):
    @settings(deadline=None, max_examples=n, database=None)
    @given(what=st.sampled_from(KINDS), way=st.sampled_from(WAYS), orientation=st.sampled_from([1, *TURNS]))
    def one_picture(what, way, orientation):
        check(*what, way, orientation, expected)

    one_picture()


def check(mode, kind, way, orientation, expected):
    options, _, tagged = CONTAINERS[kind]
    image = COLOURS[mode]()
    if tagged and orientation > 1:
        image, options = turned(orientation, image), options | {"exif": tag(orientation)}
    directory = Path(tempfile.mkdtemp())
    try:
        task = task_of(directory, [stored(image, kind, **options)], [QUESTION], way)
        assert fingerprint(task) == expected["colour" if mode in ("RGB", "RGBA", "CMYK") else "grey"]
        changes = task.example(0).converted_from
        assert (f"orientation {orientation} applied" in changes) == (tagged and orientation > 1)
        assert (mode == "RGB") == (set(changes) <= {f"orientation {orientation} applied"})
    finally:
        shutil.rmtree(directory)


def test_rows_that_differ_in_orientation_alone_differ(tmp_path):
    found = {
        fingerprint(task_of(tmp_path / str(o), [stored(PLAIN, exif=tag(o))], [QUESTION], "decoded"))
        for o in range(1, 9)
    }
    assert len(found) == len({revision for _, revision in found}) == 8


@pytest.mark.parametrize("nested", [datasets.List(datasets.Image()), {"inner": datasets.Image()}])
def test_nested_pictures_follow_the_rule(tmp_path, nested):
    content = stored(turned(6), exif=tag(6))
    value = {"bytes": content, "path": None}
    shown = "doc['image'][0]" if isinstance(nested, datasets.List) else "doc['image']['inner']"
    (tmp_path / "utils.py").write_text(f"def show(doc):\n    return [{shown}]\n")
    features = datasets.Features({"image": nested, "question": STRING, "answer": datasets.Value("int64")})
    row = {"image": [value] if isinstance(nested, datasets.List) else {"inner": value}, **QUESTION}
    datasets.Dataset.from_list([row], features=features).to_parquet(str(tmp_path / "rows.parquet"))
    text = TASK.format(kind="parquet", arguments=f"data_files: {{test: {tmp_path}/rows.parquet}}")
    (tmp_path / "task.yaml").write_text(text.replace("[image]", "!function utils.show"))
    example = load_task(tmp_path / "task.yaml").example(0)
    assert example.images[0].size == (9, 6) and example.converted_from == ("orientation 6 applied",)


def test_pictures_that_process_docs_makes_anew(tmp_path):
    (tmp_path / "utils.py").write_text(
        "def again(rows):\n    return rows.map(lambda row: {'image': row['image'], 'new': 1})\n"
    )
    task = task_of(tmp_path, [stored(turned(6), "TIFF", exif=tag(6))], [QUESTION], "decoded")
    file = tmp_path / "again.yaml"
    file.write_text((tmp_path / "task.yaml").read_text() + "process_docs: !function utils.again\n")
    assert media_sha256(load_task(file).example(0)) == media_sha256(task.example(0))


@pytest.mark.parametrize("way", ["paths", "json", "directory"])
def test_pictures_outside_the_data_set_are_skipped_by_name(tmp_path, way):
    (tmp_path / "out.png").write_bytes(stored(PLAIN))
    data = tmp_path / "data"
    plain = task_of(data, [stored(PLAIN)] * 2, [QUESTION, QUESTION | {"answer": 0}], way)
    first = plain.dataset.revision
    (data / "images/1.bin").unlink()
    (data / "images/1.bin").symlink_to(tmp_path / "out.png")
    task = load_task(data / "task.yaml")
    assert task.dataset.revision != first
    task.example(0)
    with pytest.raises(ExampleError, match=r"example 1: file 'images/1\.bin' lies outside the data set's directory"):
        task.example(1)
    (data / "images/1.bin").unlink()
    with pytest.raises(ExampleError, match=r"example 1: file 'images/1\.bin' does not open: there is no such file"):
        load_task(data / "task.yaml").example(1)
    (data / "images/1.bin").write_bytes(b"no picture")
    with pytest.raises(ExampleError, match=r"example 1: file 'images/1\.bin' does not open: not an image file"):
        load_task(data / "task.yaml").example(1)


def test_scienceqa_refuses_pictures_outside_and_reads_every_container(scienceqa_dir):
    first = load_task("scienceqa_img", task_args={"data_dir": str(scienceqa_dir)})
    file = scienceqa_dir / "images/test/10/image.png"
    shown = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    for content in (stored(shown, "TIFF"), stored(turned(8, shown), "WEBP", lossless=True, exif=tag(8))):
        file.write_bytes(content)
        again = load_task("scienceqa_img", task_args={"data_dir": str(scienceqa_dir)})
        assert again.dataset == first.dataset
        assert media_sha256(again.example(0)) == media_sha256(first.example(0))
    problems = json.loads((scienceqa_dir / "problems.json").read_text())
    for outside in ("../../../../secret.png", "/etc/secret.png"):
        problems["10"]["image"] = outside
        (scienceqa_dir / "problems.json").write_text(json.dumps(problems))
        with pytest.raises(TaskError, match=r"the picture of problem 10 lies outside images/: '.*secret\.png'"):
            load_task("scienceqa_img", task_args={"data_dir": str(scienceqa_dir)})


VARIANTS = (
    stored,
    lambda shown: stored(black_behind(shown)),
    clear_colour,
    lambda shown: stored(turned(5, shown), exif=tag(5)),
    lambda shown: stored(Image.fromarray(np.asarray(shown.convert("L")).astype(np.uint16) * 257)),
    lambda shown: stored(turned(6, black_behind(shown)), "WEBP", lossless=True, exact=True, exif=tag(6)),
)


def test_a_model_measures_the_same_whatever_the_pictures_are_stored_as(tmp_path):
    source = load_task("shapesqa", task_args={"n": "12"})
    examples = [source.example(index) for index in range(12)]
    # in greys, which 16 bits can hold; the background becomes white, which can be clear
    greys = [example.images[0].convert("L").point(lambda value: 255 if value > 200 else value) for example in examples]
    pictures = [grey.convert("RGB") for grey in greys]
    questions = [{"question": e.text.removeprefix("<image>"), "answer": e.answer} for e in examples]
    changed = [VARIANTS[number % len(VARIANTS)](picture) for number, picture in enumerate(pictures)]
    results = [
        evaluate("zoo-llava", task_of(tmp_path / way, contents, questions, way), progress=False)
        for way, contents in (("decoded", [stored(picture) for picture in pictures]), ("json", changed))
    ]
    assert results[0].inputs.images_converted == {}
    assert results[1].inputs.images_converted == {
        "I;16 as 0..65535": 2,
        "RGB over white": 2,
        "RGBA over white": 4,
        "orientation 5 applied": 2,
        "orientation 6 applied": 2,
    }
    one, other = (replace(result.inputs, images_converted={}) for result in results)
    assert one == other and results[0].identity == results[1].identity
    assert (results[0].scores, results[0].accuracy) == (results[1].scores, results[1].accuracy)
