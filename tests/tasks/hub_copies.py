"""Small data sets with the columns, features, configurations and splits of the hub's, as the task library reads them.

Each is written in the layout of a hub repository (Parquet files, and a README that names them), in the place where the
hub cache of this machine keeps it, so that a task is loaded from it by its name alone. A picture is told by its width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from PIL import Image

COMMIT = "0123456789" * 4
STRING, INT32, TEXTS, PICTURE = (
    datasets.Value("string"),
    datasets.Value("int32"),
    datasets.List(datasets.Value("string")),
    datasets.Image(),
)


@dataclass(frozen=True)
class HubCopy:
    """One repository: column → feature, and configuration → split → rows (columns that are left out are null)."""

    repository: str
    features: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]

    def write(self, directory: Path) -> Path:
        """Writes README.md and a Parquet file for each split; returns the directory."""
        features, configs = datasets.Features(self.features), []
        for config, splits in self.rows.items():
            folder = "data" if config == "default" else config
            (directory / folder).mkdir(parents=True)
            for split, rows in splits.items():
                whole = [dict.fromkeys(self.features) | dict(row) for row in rows]
                file = directory / folder / f"{split}-00000-of-00001.parquet"
                datasets.Dataset.from_list(whole, features=features).to_parquet(str(file))
            files = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
            configs.append({"config_name": config, "data_files": files})
        (directory / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
        return directory

    def write_to_cache(self, cache: Path) -> Path:
        """The same as the hub library's cache of one commit, which is that of branch ``main``."""
        repository = cache / f"datasets--{self.repository.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        return self.write(repository / "snapshots" / COMMIT)


def picture(width: int, mode: str = "RGB") -> Image.Image:
    """A picture that is told by its width."""
    return Image.new("RGB", (width, 20), (200, 9 * width % 256, 60)).convert(mode)


POPE = HubCopy(
    "lmms-lab-encoder/POPE",
    dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), STRING)
    | {"image": PICTURE, "category": STRING},
    {
        "default": {
            "test": [
                {"id": "0", "question_id": "1", "question": "Is there a dog in the image?", "answer": "yes"},
                {"id": "1", "question_id": "2", "question": " Is there a sofa in the image? ", "answer": "no "},
                {"id": "2", "question_id": "1", "question": "Is there a cup in the image?", "answer": "maybe"},
            ]
        },
        "Full": {"adversarial": [{"id": "9", "question_id": "1", "question": "Is there a car?", "answer": "no"}]},
    },
)

MME = HubCopy(
    "lmms-lab-encoder/MME",
    {"question_id": STRING, "image": PICTURE, "question": STRING, "answer": STRING, "category": STRING},
    {
        "default": {
            "test": [
                {"question_id": "ocr/1.png", "question": "Is it 7? Please answer yes or no.", "answer": "Yes"},
                {"question_id": "ocr/1.png", "question": "Is it 8?", "answer": "No"},  # not every one ends in that
            ]
        }
    },
)

AI2D = HubCopy(
    "lmms-lab-encoder/ai2d",
    {"question": STRING, "options": TEXTS, "answer": STRING, "image": PICTURE},
    {
        "default": {
            "test": [
                {"question": "Which eats grass?", "options": ["hawk", "cow", "fox", "owl"], "answer": "1"},
                {"question": "Is A above B?", "options": ["yes", "no"], "answer": "0"},
                {"question": "Which?", "options": ["a", "b", "c"], "answer": "3"},
            ]
        }
    },
)

MMBENCH = HubCopy(
    "lmms-lab-encoder/MMBench",
    dict.fromkeys(("index", "question", "hint", "answer", *"ABCD", "category"), STRING)
    | {"image": PICTURE}
    | dict.fromkeys(("source", "L2-category", "comment", "split"), STRING),
    {
        "en": {
            "dev": [
                {
                    "index": "241",
                    "question": "Which?",
                    "hint": "Look.",
                    "answer": "C",
                    "A": "w",
                    "B": "x",
                    "C": "y",
                    "D": "z",
                },
                {"index": "252", "question": "Two?", "hint": "nan", "answer": "B", "A": "1", "B": "2", "C": "nan"},
                {"index": "253", "question": "Three?", "hint": None, "answer": "A", "A": "1", "B": "2", "C": "3"},
            ],
            "test": [{"index": "9", "question": "Kept back?", "answer": None, "A": "1", "B": "2"}],
        },
        "cn": {"dev": [{"index": "1", "question": "哪个?", "answer": "A", "A": "甲", "B": "乙"}]},
    },
)

TEXTVQA = HubCopy(
    "lmms-lab-encoder/textvqa",
    {"image_id": STRING, "question_id": INT32, "question": STRING, "question_tokens": TEXTS, "image": PICTURE}
    | {"image_width": INT32, "image_height": INT32, "flickr_original_url": STRING, "flickr_300k_url": STRING}
    | {"answers": TEXTS, "image_classes": TEXTS, "set_name": STRING, "ocr_tokens": TEXTS},
    {
        "default": {
            "validation": [
                {"question_id": 34602, "question": "what is the Brand?", "answers": ["nokia"] * 9 + ["the Nokia."]},
                {"question_id": 34603, "question": "what time?", "answers": ["ten", "10"] + ["noon"] * 8},
            ],
            "test": [{"question_id": 39602, "question": "what is it?", "answers": []}],
        }
    },
)

CHARTQA = HubCopy(
    "lmms-lab-encoder/ChartQA",
    {"type": STRING, "question": STRING, "answer": STRING, "image": PICTURE},
    {
        "default": {
            "test": [
                {"type": "human_test", "question": "How many bars?", "answer": "14"},
                {"type": "augmented_test", "question": "Which country?", "answer": "Peru"},
            ]
        }
    },
)

NLVR2 = HubCopy(
    "lmms-lab/NLVR2",
    dict.fromkeys(("question_id", "identifier", "question", "answer", "writer", "synset", "query"), STRING)
    | {"left_url": STRING, "right_url": STRING, "left_image": PICTURE, "right_image": PICTURE},
    {
        "default": {
            "balanced_test_public": [
                {"identifier": "test1-0-1-0", "question": "Both show dogs.", "answer": "True"},
                {"identifier": "test1-0-1-1", "question": "The left one is a cat. ", "answer": "False"},
            ],
            "unbalanced_dev": [{"identifier": "dev-0-0-0", "question": "One is a bus.", "answer": "False"}],
        }
    },
)

CHOICE, OPEN = {"question_type": "multiple-choice"}, {"question_type": "open", "options": "[]"}
MMMU = HubCopy(
    "lmms-lab-encoder/MMMU",
    {"id": STRING, "question": STRING, "options": STRING, "explanation": STRING}
    | {f"image_{number}": PICTURE for number in range(1, 8)}
    | dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type", "subfield"), STRING),
    {
        "default": {
            "validation": [
                {"id": "validation_Art_1", "question": "Who made <image 1> ?", "options": "['Goya', \"O'Keeffe\"]"}
                | {"answer": "B", "image_1": picture(31)}
                | CHOICE,
                {"id": "validation_Art_2", "question": "<image 2> before <image 1> and <image 2>: why?"}
                | {"options": "['one', 'two', 'three']", "answer": "A", "image_1": picture(31), "image_2": picture(32)}
                | CHOICE,
                {"id": "validation_Math_3", "question": "How much? <image 1>", "answer": "['24/7', '3.429']"}
                | {"image_1": picture(31, "RGBA")}
                | OPEN,
                {"id": "validation_Math_4", "question": "Which one?", "answer": "C"}
                | {"options": str([f"<image {number}>" for number in range(1, 8)])}
                | {f"image_{number}": picture(30 + number, "L") for number in range(1, 8)}
                | CHOICE,
                {"id": "validation_Bio_5", "question": "Name it: <image 1>", "answer": "cell", "image_1": picture(31)}
                | OPEN,
                {"id": "validation_Bio_6", "question": "What is <image 3>?", "options": "['x', 'y']", "answer": "A"}
                | {"image_1": picture(31)}
                | CHOICE,
                {"id": "validation_Bio_7", "question": "What is it?", "options": "['x', 'y']", "answer": "A"}
                | {"image_1": picture(31)}
                | CHOICE,
            ],
            "dev": [
                {"id": "dev_Art_1", "question": "<image 1>", "options": "['x']", "answer": "A", "image_1": picture(31)}
                | CHOICE
            ],
        }
    },
)


def _with_pictures(copy: HubCopy) -> HubCopy:
    """Every row of a data set of one or two pictures a row gets them: 31 pixels wide, the second 32."""
    columns = [column for column, feature in copy.features.items() if feature is PICTURE]
    shown = {column: picture(31 + number) for number, column in enumerate(columns)}
    rows = {
        config: {split: [{**shown, **row} for row in of_split] for split, of_split in splits.items()}
        for config, splits in copy.rows.items()
    }
    return HubCopy(copy.repository, copy.features, rows)


POPE, MME, AI2D, MMBENCH, TEXTVQA, CHARTQA, NLVR2 = map(
    _with_pictures, (POPE, MME, AI2D, MMBENCH, TEXTVQA, CHARTQA, NLVR2)
)
COPIES = [MMMU, POPE, MME, AI2D, MMBENCH, TEXTVQA, CHARTQA, NLVR2]
