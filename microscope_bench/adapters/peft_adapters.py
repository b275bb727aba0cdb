"""PEFT adapters in a directory or repository of their own, put onto the base model that they were trained with."""

from __future__ import annotations

from typing import Any

from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.missing_packages import needs
from microscope_bench.adapters.pinned_checkpoint import Checkpoint, resolve_checkpoint
from microscope_bench.adapters.weight_files import PEFT_CONFIG, PEFT_WEIGHTS, check_file, json_object
from microscope_bench.adapters.weight_headers import read_header
from microscope_bench.errors import AdapterError

_FILES = (PEFT_CONFIG, PEFT_WEIGHTS)


def base_and_adapter(checkpoint: Checkpoint, peft: str | None) -> tuple[Checkpoint, Checkpoint | None]:
    """The checkpoint of a model, and the adapter to put onto it: ``peft``, or the checkpoint itself if it is one."""
    alone = (checkpoint.path / PEFT_CONFIG).is_file() and not (checkpoint.path / "config.json").is_file()
    if not alone:
        return checkpoint, None if peft is None else resolve_checkpoint(peft, files=_FILES)
    if peft is not None:
        raise AdapterError(f"{checkpoint.repo} is a PEFT adapter itself; give the model that peft={peft} is for")
    config = json_object(checkpoint.path / PEFT_CONFIG) or {}
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    remedy = f"Name the model that it was trained with: pretrained=MODEL,peft={checkpoint.repo}"
    if not isinstance(base, str) or not base:
        raise AdapterError(f"{checkpoint.repo} is a PEFT adapter whose {PEFT_CONFIG} names no base model. {remedy}")
    try:
        found = resolve_checkpoint(base, revision if isinstance(revision, str) else None)
    except AdapterError as error:
        raise AdapterError(
            f"{checkpoint.repo} is a PEFT adapter of {base}, which cannot be loaded: {error}. {remedy}"
        ) from error
    return found, checkpoint


def with_adapter(model: Any, base: Checkpoint, adapter: Checkpoint) -> tuple[Any, Checkpoint]:
    """The model with the adapter's layers in place, unmerged, and the checkpoint that stands for both.

    Raises:
        AdapterError: peft is missing, the adapter is not whole, pickled, or of another model.
    """
    from transformers.utils import is_peft_available

    if not is_peft_available():
        raise AdapterError(f"the PEFT adapter {adapter.repo} {needs('peft')}")
    from peft import PeftModel, get_peft_model_state_dict

    for name in _FILES:
        if not (adapter.path / name).is_file():
            raise AdapterError(
                f"{adapter.repo} lacks {name}, which a PEFT adapter has; pickled weights (.bin) are not loaded. Load "
                f"it with peft and write it anew: save_pretrained(DIR)"
            )
        check_file(adapter.path, name)
    kind = type(model).__name__
    with loading(f"the PEFT adapter {adapter.repo} onto {base.repo}", "It may have been made for another model."):
        model = PeftModel.from_pretrained(model, str(adapter.path))
        ours = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    theirs = read_header(adapter.path / PEFT_WEIGHTS).keys()
    if lacking := sorted(ours - theirs):
        raise AdapterError(
            f"{adapter.repo} lacks {len(lacking)} weights of its layers in {kind}, which would be random: {lacking[0]}"
        )
    if unplaced := sorted(theirs - ours):
        raise AdapterError(
            f"{len(unplaced)} weights of the PEFT adapter {adapter.repo} have no place in {kind} ({unplaced[0]}); it "
            f"was made for another model"
        )
    digest = adapter.revision.removeprefix("sha256-")
    both = Checkpoint(base.path, f"{base.repo}+{adapter.repo}", f"{base.revision}+peft-{digest}")
    return model.eval(), both
