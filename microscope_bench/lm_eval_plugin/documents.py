"""The documents of an evaluation as examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.errors import ExampleError
from microscope_bench.example import WORD_MARK, Example
from microscope_bench.lm_eval_plugin.internals import Instance, pictures_of
from microscope_bench.tasks import Task

Document = tuple[str, int]
"""Task name and lm-eval's number of the document."""
Turns = tuple[tuple[str, str], ...]
"""Role and content of each turn of a conversation."""


def document_of(request: Instance) -> Document:
    """Whose a request is."""
    return str(request.task_name), int(request.doc_id)


class Documents:
    """Renders documents when they are asked for; those with pictures each time anew, because pictures take memory."""

    def __init__(
        self,
        adapter: HFAdapter | OwnModel,
        tasks: Mapping[str, Task],
        conversations: Mapping[str, Turns],
        *,
        templated: bool,
    ) -> None:
        self.tasks, self._conversations = tasks, conversations
        self._adapter, self._templated = adapter, templated
        self._requests: dict[Document, Instance] = {}
        self._left_out: set[Document] = set()
        self._kept: dict[Document, Example] = {}
        self._n_choices: dict[Document, int] = {}

    def add(self, request: Instance) -> None:
        """Takes a request; the first one of a document stands for it."""
        self._requests.setdefault(document_of(request), request)

    def leave_out(self, document: Document) -> bool:
        """Lets a document be asked for no more. Returns whether it could be asked for until now."""
        known = document not in self._left_out
        self._left_out.add(document)
        return known

    def id_of(self, document: Document) -> str:
        """The example's id."""
        return self.tasks[document[0]].ids[document[1]]

    def n_choices(self, document: Document) -> int:
        """How many choices the example has; 0 before it was rendered."""
        return self._n_choices.get(document, 0)

    def example(self, document: Document) -> Example | None:
        """The document as `microscope-bench run` would ask it; where lm-eval asks otherwise, as it asks it."""
        if document in self._left_out:
            return None
        if document in self._kept:
            return self._kept[document]
        request, task = self._requests[document], self.tasks[document[0]]
        asked = str(request.args[0])
        example = task.render(document[1], request.doc, pictures=pictures_of(request))
        column = (task.renderer.config.metadata or {}).get("id_column")
        if column is not None and str(request.doc[column]) != example.id:
            raise ExampleError(
                example.id, f"lm-eval has row {request.doc[column]} in its place: the task draws its rows"
            )
        ours = example.text.replace(WORD_MARK, "")
        if self._templated and isinstance(self._adapter, HFAdapter):
            ours = self._adapter.encoder.prompt(example)
        if ours != asked:
            if self._templated and asked not in self._conversations:
                raise ExampleError(
                    example.id, "it is not known which words of lm-eval's prompt its chat template wrote"
                )
            turns = self._conversations.get(asked, ()) if self._templated else ()
            example = replace(example, text=asked, turns=turns, prompt=asked if self._templated else None)
        self._n_choices[document] = len(example.choices or ())
        if not example.media:
            self._kept[document] = example
        return example
