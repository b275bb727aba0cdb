"""Templates are rendered as lm-eval and transformers render them, in bounded time and memory, and run no code."""

from __future__ import annotations

import os
import random
import time

import lm_eval.utils
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.system import bounded_templates
from microscope_bench.system.bounded_templates import render, render_chat
from microscope_bench.tasks import load_task

plain = lm_eval.utils.env.from_string


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(bounded_templates, "SECONDS", 0.5)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a }}\n",
        "{{ b.strip()|upper }} {{ [1, 2.5, c] }} {{ d.x }}{% if e %}{{ e }}{% endif %}",
        "{% for x in b %}{{ loop.index }}{{ x }} {% endfor %}{{ b|regex_replace('[aeiou]', '_') }}",
        "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "{{ ['A', 'B'][a] }} {{ '%03d'|format(a) }} {{ '{:>4}'.format(a) }} ꙮ é",
        "{{ [1, 2, 3, 4]|random }} {{ range(100)|random }}",
    ],
)
def test_a_template_is_rendered_as_lm_eval_renders_it(template):
    variables = {"a": 1, "b": " some text ", "c": None, "d": {"x": True}, "e": [], "unused": object()}
    random.seed(3)
    expected = [plain(template).render(**variables) for _ in range(2)]
    random.seed(3)
    assert [render(template, variables) for _ in range(2)] == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n  {% if loop.first %}{{ bos }}{% continue %}{% endif %}\n<{{ m.role }}>{% endfor %}",
        "{% generation %}{{ messages[0]|tojson(indent=2) }}{{ absent }}{% endgeneration %}{{ strftime_now('%Y') }}",
        "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x ~ m.role %}{% endfor %}{{ n.x }}\n",
        "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}{{ dict(a='é<')|tojson }}",
    ],
)
def test_a_chat_template_is_rendered_as_transformers_renders_it(template):
    turns = [{"role": role, "content": f"é <{role}>"} for role in ("system", "user")]
    (expected,), _ = render_jinja_template([turns], chat_template=template, bos="<s>")
    assert render_chat(template, {"messages": turns, "tools": None, "documents": None, "bos": "<s>"}) == expected


def test_what_a_template_raises_is_raised_here():
    for template, name, said in (
        ("{{ x }}", "UndefinedError", "'x' is undefined"),
        ("{{ a.b }}", "UndefinedError", "has no attribute 'b'"),
        ("{% if %}", "TemplateSyntaxError", "Expected an expression"),
        ("{{ 1 / 0 }}", "ZeroDivisionError", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError", "unsafe"),
    ):
        with pytest.raises(Exception, match=said) as raised:
            render(template, {"a": {}})
        assert type(raised.value).__name__ == name
    with pytest.raises(Exception, match="no such role") as raised:
        render_chat("{{ raise_exception('no such role') }}", {})
    assert type(raised.value).__name__ == "TemplateError"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{{ j }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ ('a' * 40 + 'b')|regex_replace('(a+)+$', '') }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_does_not_end_is_ended(soon, template):
    begin = time.perf_counter()
    with pytest.raises(TaskError, match=r"does not end within 0\.5 s"):
        render(template, {})
    assert time.perf_counter() - begin < 10
    assert render("{{ a }}", {"a": 1}) == "1"  # by another process


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a'|center(10 ** 11) }}",
        "{{ '%100000000000d'|format(1) }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{% set n = namespace(x='a' * 1000) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ ['a' * 1000000] * 1000 }}",
        "{{ a.replace('a', 'b' * 100000) }}",
        "{{ 'a' * 20000000 }}",
    ],
)
def test_a_template_that_takes_gigabytes_is_refused(template):
    with pytest.raises(TaskError, match=r"takes more than 1 GB|ends the process|does not end"):
        render(template, {"a": "a" * 100_000})
    assert render("{{ a }}", {"a": 1}) == "1"


def test_the_process_ends_with_its_reason_and_a_fork_has_its_own():
    assert render("{{ a }}", {"a": 1}) == "1"
    child = os.fork()
    if child == 0:
        os._exit(0 if render("{{ a }}", {"a": 2}) == "2" else 1)
    assert os.waitpid(child, 0)[1] == 0 and render("{{ a }}", {"a": 3}) == "3"


def test_a_row_whose_template_does_not_end_is_skipped_by_name_and_a_task_of_such_rows_refused(write_task, soon):
    loop = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{{ question }}"
    rows = [
        {"key": "x", "question": "One?", "answer": 0, "n": 1},
        {"key": "y", "question": "Two?", "answer": 1, "n": 99999},
    ]
    task = load_task(write_task(doc_to_text=f'doc_to_text: "{loop}"', rows=rows))
    assert task.example(0).text == "One?"
    with pytest.raises(ExampleError, match=r"example y: a template does not end within 0\.5 s"):
        task.example(1)
    with pytest.raises(TaskError, match=r"toy\.yaml: field doc_to_text: fails on the first row: .* does not end"):
        load_task(write_task(doc_to_text=f'doc_to_text: "{loop}"', rows=rows[1:]))
