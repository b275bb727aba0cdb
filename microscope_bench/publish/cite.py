"""How results are cited: the signature, a sentence for a methods section, BibTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from microscope_bench.identity import short_revision
from microscope_bench.metrics.registry import find_metric, in_order
from microscope_bench.publish.escape import breakable, latex
from microscope_bench.publish.grouping import TextOf, data_of, protocol_title
from microscope_bench.publish.summary import shown_name
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import safe_name
from microscope_bench.system.printable import one_line

SOFTWARE = {
    "title": "microscope_bench: the geometry inside multimodal LLMs, measured per layer and per modality",
    "author": "The microscope_bench authors",
}
PAPER = {
    "title": "MLLM-Microscope: Unlocking Hidden Structure Within Multimodal Large Language Models",
    "author": "Mussabayev, Ravil and Mussabayev, Rustam",
    "year": "2026",
    "eprint": "2606.00909",
    "archiveprefix": "arXiv",
}
"""Both as in CITATION.cff; a test holds them together."""

_CITATION = re.compile(r"(?P<who>[^,]+) et al\., (?P<title>.+), (?P<venue>[^,]*?) ?(?P<year>(?:19|20)\d\d)")


def sentence(result: Result) -> str:
    identity = result.identity
    model, data, protocol = identity.model, data_of(result), identity.protocol
    how = [f"revision {short_revision(model.revision)}", model.dtype]
    how += [f"quantisation {model.quantization}"] if model.quantization else []
    how += [f"attention {model.attention}"] if model.attention else []
    how += [f"control {model.control}"] if model.control else []
    where = f"at every boundary of {model.options['tap']}" if "tap" in model.options else "at every decoder layer"
    known = [_metric_text(name, identity.metrics[name]) for name in in_order(identity.metrics)]
    title = protocol_title(result)
    return one_line(
        f"We measured the residual stream of {shown_name(result)} ({', '.join(how)}) {where} on {data.title} "
        f"({result.inputs.n_examples:,} examples of {data.source} at {data.revision}, split {data.split}; at most "
        f"{protocol.tokens_per_example} tokens of each modality per example; seed {protocol.seed}) with "
        f"microscope_bench {result.environment.package_version}, {title[0].lower()}{title[1:]}: {_listed(known)}. "
        f"Standard errors are from a delete-a-group jackknife over at most {protocol.folds} groups of whole examples. "
        f"Signature: {result.signature}"
    )


def _metric_text(name: str, version: object) -> str:
    record = find_metric(name)
    if record is None or not record.cited_as:
        return f"{name} (version {version})"
    return f"{record.title} ({record.cited_as}, version {version})"


def bibtex(results: Sequence[Result], citation_of: TextOf) -> str:
    """BibTeX: the software in each version used, the paper, the data of each task where known, and each result."""
    entries: dict[str, dict[str, str]] = {}
    for version in sorted({result.environment.package_version for result in results}):
        entries[f"microscope_bench-{_key(version)}"] = {
            "title": latex(SOFTWARE["title"]),
            "author": f"{{{latex(SOFTWARE['author'])}}}",
            "note": latex(f"Version {version}"),
        }
    entries["mllm-microscope"] = PAPER
    for result in results:
        task, text = result.identity.task.name, citation_of(result)
        if text:
            entries[f"data-{_key(task)}"] = _data(text)
    for result in results:
        names = (_key(result.identity.model.name), _key(result.identity.task.name), result.short_id)
        entries["-".join(names)] = {
            "title": latex(f"{shown_name(result)} on {data_of(result).title}: a result of microscope_bench"),
            "key": latex("microscope_bench"),
            "note": rf"Signature: \texttt{{{breakable(result.signature)}}}",
        }
    return "\n".join(_entry(key, fields) for key, fields in entries.items())


def sentences(results: Sequence[Result], citation_of: TextOf) -> str:
    return "\n\n".join([*map(sentence, results), bibtex(results, citation_of)])


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _data(text: str) -> dict[str, str]:
    """A task file's citation as BibTeX fields; one in other words becomes the title, whole."""
    found = _CITATION.fullmatch(one_line(text))
    if found is None:
        return {"title": latex(text)}
    venue = {"howpublished": latex(found["venue"])} if found["venue"] else {}
    return {
        "title": f"{{{latex(found['title'])}}}",
        "author": f"{latex(found['who'])} and others",
        **venue,
        "year": found["year"],
    }


def _entry(key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}", ""])


def _key(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", safe_name(text))
