"""Cells reach the prompt as the file has them, or are refused by row and column."""

from __future__ import annotations

import datetime
import decimal
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.tasks import load_task

TASK = """
task: cells
dataset_path: {kind}
dataset_kwargs: {{data_files: {{test: {data}}}{options}}}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_choice: {choice}
doc_to_target: {target}
metadata: {{version: 1, id_column: id}}
"""


@pytest.fixture
def load(tmp_path):
    """Loads a task over a file of that content."""

    def load(content, kind="csv", text="{{ a }}|{{ b }}", name="rows", **fields):
        data = tmp_path / f"{name}.{kind}"
        if isinstance(content, pa.Table):
            pq.write_table(content, data)
        else:
            data.write_bytes(content if isinstance(content, bytes) else content.encode())
        given = {"target": "0", "choice": json.dumps("{{[a, b]}}"), "options": ""} | fields
        (tmp_path / "cells.yaml").write_text(TASK.format(kind=kind, data=data, text=json.dumps(text), **given))
        return load_task(tmp_path / "cells.yaml")

    return load


def csv_of(*cells):
    return "id,a,b\n" + "".join(f'{number},"{cell}",x\n' for number, cell in enumerate(cells))


ODD_CELLS = ("None", "NA", "N/A", "nan", "NaN", "null", "", "007", "1.0", "+1", "true", "1e5", " lead", "trail ")
ODD_CELLS += ("two\nlines", "2020-01-01", "9007199254740993", "123456789012345678901", "-0", "1_000", "1,5", "inf")


@pytest.mark.parametrize(
    "cells", [ODD_CELLS, *((cell,) * 2 for cell in ODD_CELLS), ("1", "2.5"), ("1", ""), ("0", "x")]
)
def test_a_cell_of_a_csv_prints_as_it_is_written(load, cells):
    task = load(csv_of(*cells), choice="\"{{[a or '-', b]}}\"")
    examples = [task.example(index) for index in range(len(cells))]
    assert [example.text for example in examples] == [f"{cell}|x" for cell in cells]
    assert [example.choices for example in examples] == [(cell or "-", "x") for cell in cells]
    assert list(task.ids) == [str(number) for number in range(len(cells))]


@pytest.mark.parametrize("cells", [ODD_CELLS, *((cell,) * 2 for cell in ODD_CELLS)])
def test_a_text_of_json_prints_as_it_is_written(load, cells):
    rows = [{"id": str(number), "a": cell, "b": "x"} for number, cell in enumerate(cells)]
    for kind, content in (("json", json.dumps(rows)), ("json", "\n".join(map(json.dumps, rows)))):
        task = load(content, kind, choice="[A, B]")
        assert [task.example(index).text for index in range(len(cells))] == [f"{cell}|x" for cell in cells]


@pytest.mark.parametrize(
    "numbers",
    ["1 2", "1 2.5", "1.10 2", "1e5 1", "9007199254740993 1", "12345678901234567890123 1", "0.1 0.25", "-0.0 1"],
)
def test_a_number_of_json_prints_as_it_is_written(load, numbers):
    rows = "\n".join(f'{{"id": {place}, "a": {number}, "b": "x"}}' for place, number in enumerate(numbers.split()))
    task = load(rows, "json")
    assert [task.example(index).text for index in (0, 1)] == [f"{number}|x" for number in numbers.split()]


def test_cells_of_several_types_stay_what_they_are(load):
    rows = [{"id": 0, "a": 7, "b": {"x": 1}}, {"id": 1, "a": "7", "b": {"y": [1, "z"]}}, {"id": 2, "a": True, "b": {}}]
    task = load(json.dumps(rows), "json")
    assert [task.rows[index] for index in range(3)] == rows
    assert type(task.rows[0]["a"]) is int and task.example(2).text == "True|{}"


def test_columns_of_numbers_count_as_they_do_in_lm_eval(load):
    task = load(
        "id,a,b,gold,right\n0,x,y,1,True\n1,x,y,0,False\n", text="{{ [a, b][gold] }}{{ right and a }}", target="gold"
    )
    assert [(task.example(index).text, task.example(index).answer) for index in (0, 1)] == [("yx", 1), ("xFalse", 0)]
    with pytest.raises(TaskError, match="doc_to_text: fails on the first row"):
        load("id,a,b,gold\n0,x,y,1\n1,x,y,\n", name="texts", text="{{ [a, b][gold] }}", target="gold")
    told = load("id,a,b,gold\n0,x,y,1\n1,x,y,\n", name="told", text="{{ [a, b][gold|int] }}", target="gold")
    assert told.example(0).text == "y" and told.example(0).answer == 1


@pytest.mark.parametrize(
    "content, kind, said",
    [
        ("id,a,b\n1,x,y,z\n", "csv", r"rows.csv: row 0 \(line 2\) has 4 cells where the header has 3"),
        ('id,a,b\n1,"two\nlines",x\n2,x\n', "csv", r"row 1 \(line 4\) has 2 cells"),
        ("id,a,a\n1,x,y\n", "csv", "two columns are called 'a'"),
        ('id,a,b\n1,"x,y\n', "csv", "line 2: unexpected end of data"),
        ('id,a,b\n1,"x"z,y\n', "csv", "line 2: ',' expected after"),
        (b"id,a,b\n1,caf\xe9,x\n", "csv", "not utf-8: .*; save it as UTF-8, or name dataset_kwargs.encoding"),
        ('[{"id": 1, "a": 1.5}, {"id": 2, "a": NaN}]', "json", "column a, row 1: 'nan' cannot be kept as it is"),
        ('[{"id": 1, "a": Infinity}]', "json", "column a, row 0: "),
        ('[{"id": 1, "a": [1, 0.3333333333333333]}, {"id": 2, "a": ["x"]}]', "json", "column a, row 0: "),
        ('{"id": 1, "a": "\\ud800"}', "json", "column a, row 0: "),
        ('{"id": 1, "a": 1, "a": 2}', "json", "two values for one of its keys: id, a, a"),
        ('{"id": 1}\n{"id": ', "json", "line 2: not valid JSON"),
        ('[{"id": 1, "a": ' + "9" * 10_000 + "}]", "json", "a whole number has 10,000 digits, .*write it as text"),
        ("id, a, b\n1,x,y\n", "csv", r"'a' is undefined; the columns are 'id', ' a', ' b'"),
        ('{"id": 1}\n7', "json", "line 2: no object of column names"),
        ("[7]", "json", "row 0 is no object of column names"),
        ("[" * 100_000, "json", "not valid JSON: maximum recursion depth"),
        ('{"data": [], "version": 1}', "json", "no split|has no rows|id_column"),
        ('{\n"data": [],\n"version": 1}', "json", "one object and no list of rows; name the list's key"),
        ("id,a,b\n,x,y\n", "csv", "row 0 has no id: column id is empty there"),
        ('[{"id": 1}, {"id": null}]', "json", "row 1 has no id: column id is empty there"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(load, content, kind, said):
    with pytest.raises(TaskError, match=said):
        load(content, kind)


def test_byte_order_marks_separators_and_names_of_columns(load):
    assert load(b"\xef\xbb\xbfid,a,b\n007,1,x\n").example(0).text == "1|x"
    assert load("id\ta\tb\n1\t007\t,\n", name="tabs", options=', sep: "\\t"').example(0).text == "007|,"
    assert load("1,007,x\n", name="named", options=", names: [id, a, b]").example(0).text == "007|x"
    assert load('{"rows": [{"id": 1, "a": "NA", "b": "x"}]}', "json", options=", field: rows").example(0).text == "NA|x"
    asked = load(
        "id,a,b\n1,NA,x\n2,y,x\n", name="asked", choice="[A, B]", options=", na_values: [NA]"
    )  # the task's own wish
    assert asked.rows[0]["a"] is None


NULLS = [{"id": "n", "a": None, "b": "x"}, {"id": "w", "a": "None", "b": "x"}]


@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize(
    "text",
    ["{{ a }}", "{{ b ~ a }}", "{{ [b, a]|join(', ') }}", "{{ a|upper }} {{ b }}", "{{ '%s'|format(a) }}", "{{ [a] }}"],
)
def test_a_null_never_becomes_the_word_none(load, kind, text):
    content = json.dumps(NULLS) if kind == "json" else pa.Table.from_pylist(NULLS)
    task = load(content, kind, text=text + " none?")
    with pytest.raises(ExampleError, match="example n: column a has no value, and the prompt would say None"):
        task.example(0)
    assert "none" in task.example(1).text.lower()


def test_a_null_in_the_choices_is_refused_and_one_that_the_template_leaves_out_is_not(load):
    task = load(json.dumps(NULLS), "json", text="{{ b }}")
    with pytest.raises(ExampleError, match="example n: column a has no value"):
        task.example(0)
    rows = [{"id": 1, "a": "None", "b": "nan", "hint": None, "n": [1, None]}]
    for text in ("{% if hint %}{{ hint }}{% endif %}", "{{ hint or '' }}", "{% if hint is none %}none{% endif %}"):
        assert load(json.dumps(rows), "json", text=f"{text} {{{{ a }}}}").example(0).choices == ("None", "nan")


def test_a_null_inside_a_cell_is_named_by_its_place(load):
    rows = [{"id": 1, "a": {"t": [{"u": "x"}, {"u": None}]}, "b": ["x", None]}]
    for text, cell in (("{{ a.t[1].u }}", r"a\.t\[1\]\.u"), ("{{ b|join(' ') }}", r"b\[1\]")):
        task = load(json.dumps(rows), "json", choice="[A, B]", text=text)
        with pytest.raises(ExampleError, match=f"column {cell} has no value"):
            task.example(0)


def test_cells_of_parquet(load):
    table = pa.table(
        {
            "id": ["1"],
            "a": pa.array([decimal.Decimal("1.50")], pa.decimal128(9, 2)),
            "b": pa.array(["x"]).dictionary_encode(),
            "day": [datetime.date(2020, 1, 2)],
            "n": pa.array([2**53 + 1]),
            "missing": pa.array([float("nan")]),
        }
    )
    assert (
        load(table, "parquet", choice="[A, B]", text="{{ a }}|{{ b }}|{{ day }}|{{ n }}").example(0).text
        == "1.50|x|2020-01-02|9007199254740993"
    )
    with pytest.raises(ExampleError, match="column missing has no value"):
        load(table, "parquet", choice="[A, B]", text="{{ missing }}").example(0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_metadata_beside_pictures_are_read_alike(tmp_path, suffix):
    folder = tmp_path / "pictures" / "test"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "one.png")
    row = {"file_name": "one.png", "a": "007", "b": "2020-01-01", "c": "None"}
    lines = [",".join(row), ",".join(row.values())] if suffix == "csv" else [json.dumps(row)]
    (folder / f"metadata.{suffix}").write_text("\n".join(lines) + "\n")
    (tmp_path / "pictures.yaml").write_text(
        f"task: pictures\ndataset_path: {tmp_path / 'pictures'}\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_image: [image]\ndoc_to_text: "<image>{{ a }}|{{ b }}|{{ c }}"\ndoc_to_target: ""\n'
    )
    for _ in range(2):  # the second time out of the cache
        assert load_task(tmp_path / "pictures.yaml").example(0).text == "<image>007|2020-01-01|None"
    datasets.load_dataset(str(tmp_path / "pictures"))  # does not leave other cells for us
    assert load_task(tmp_path / "pictures.yaml").example(0).text == "<image>007|2020-01-01|None"


def test_a_row_without_a_right_answer_is_skipped_and_says_what_to_do(load):
    rows = [{"id": n, "a": "x", "b": "y", "gold": gold} for n, gold in enumerate([None, 1, "", "z"])]
    task = load(json.dumps(rows), "json", target="gold")
    for index, gold in ((0, "None"), (2, "''"), (3, "'z'")):
        with pytest.raises(ExampleError, match=f"the answer {gold} is neither a choice .*--task_args split="):
            task.example(index)
    assert task.example(1).answer == 1


def test_a_fraction_is_an_answer_only_where_it_is_whole(load):
    golds = [1.0, 0.5, 1.9, -0.5, -1.0, 2.0]
    rows = [{"id": str(n), "a": "x", "b": "y", "gold": gold} for n, gold in enumerate(golds)]
    csv = "id,a,b,gold\n" + "".join(f"{n},x,y,{gold}\n" for n, gold in enumerate(golds))
    decimals = pa.Table.from_pylist([row | {"gold": decimal.Decimal(str(row["gold"]))} for row in rows])
    for content, kind in ((csv, "csv"), (json.dumps(rows), "json"), (pa.Table.from_pylist(rows), "parquet")):
        task = load(content, kind, target="gold")
        assert task.example(0).answer == 1
        for index, gold in list(enumerate(golds))[1:]:
            with pytest.raises(
                ExampleError, match=rf"the answer {gold} is neither a choice nor the number of one \(0 to"
            ):
                task.example(index)
    with pytest.raises(ExampleError, match=r"the answer Decimal\('0.5'\) is neither"):
        load(decimals, "parquet", target="gold", name="decimals").example(1)
    numbers = load('[{"id": 1, "a": 1.0, "b": 2.5, "gold": 2.5}]', "json", target="gold", text="Q", name="numbers")
    assert (numbers.example(0).choices, numbers.example(0).answer) == (("1.0", "2.5"), 1)


def test_choices_that_are_no_list_are_refused(load):
    for choice in ('["{{ a }}", "{{ b }}"]', '{x: "{{ a }}"}', '["{% if a %}A{% endif %}", B]'):
        with pytest.raises(TaskError, match="field doc_to_choice: entries of a list are taken as they are written"):
            load("id,a,b\n1,x,y\n", choice=choice)
    with pytest.raises(TaskError, match=r"""column a has '\["u","v"\]' where a list .*doc_to_choice: "{{ a }}"$"""):
        load('id,a,b\n1,"[""u"",""v""]",y\n', choice="a", text="{{ b }}")
    read = load('id,a,b\n1,"[""u"",""v""]",y\n', choice='"{{ a }}"', text="{{ b }}", name="read")
    assert read.example(0).choices == ("u", "v")
    task = load('[{"id": 1, "a": ["u", "v"], "b": "x"}, {"id": 2, "a": null, "b": "x"}]', "json", "{{ b }}", choice="a")
    with pytest.raises(ExampleError, match="example 2: column a has None where a list of choices is needed"):
        task.example(1)


def test_a_function_that_fails_is_named_in_the_reason(load, tmp_path):
    (tmp_path / "odd.py").write_text("def ask(doc):\n    return [doc['a']][doc['n']]\n")
    task = load('[{"id": 1, "a": "x", "b": "y", "n": 0}, {"id": 2, "a": "x", "b": "y", "n": 3}]', "json", text="TEXT")
    file = tmp_path / "cells.yaml"
    file.write_text(file.read_text().replace('"TEXT"', "!function odd.ask"))
    task = load_task(file)
    with pytest.raises(ExampleError, match=r"doc_to_text fails \(IndexError: list index out of range\)"):
        task.example(1)


def test_a_loader_says_what_is_behind_its_failure(load, tmp_path):
    with pytest.raises(TaskError, match=r"rows\.parquet is no whole Parquet file \(Parquet "):
        load(b"PAR1 no parquet", "parquet")
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("raise RuntimeError('is never run')\n")
    task = (
        (tmp_path / "cells.yaml").read_text().replace("dataset_path: parquet", f"dataset_path: {tmp_path / 'scripted'}")
    )
    lines = [line for line in task.splitlines() if not line.startswith("dataset_kwargs")]
    (tmp_path / "scripted.yaml").write_text("\n".join(lines))
    with pytest.raises(
        TaskError, match=r"there is a loading script \(scripted\.py\) and no file of data .*Convert the data"
    ):
        load_task(tmp_path / "scripted.yaml")
