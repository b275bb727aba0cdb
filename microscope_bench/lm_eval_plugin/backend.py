"""The lm-eval model ``microscope``: loads what ``--model_args`` names, for text and for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.model_args import refuse_unknown_args
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.adapters.presets import MODELS, load_model
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError
from microscope_bench.lm_eval_plugin.backend_arguments import sort_arguments
from microscope_bench.lm_eval_plugin.image_model import ImageModel
from microscope_bench.lm_eval_plugin.internals import LM, read_data_by_our_rules, register_model
from microscope_bench.lm_eval_plugin.own_model_scoring import OwnModelLM
from microscope_bench.lm_eval_plugin.text_model import TextModel
from microscope_bench.run.resolve import load_adapter_for
from microscope_bench.system.key_values import at_least, key_values
from microscope_bench.tasks.lm_eval_layer import bound_templates

read_data_by_our_rules()
bound_templates()


@register_model("microscope")
class Microscope(TextModel):
    """What lm-eval calls by name; it makes one of the two classes.

    Called by Python, ``Microscope(pretrained=model, processor=processor)`` takes a model in memory, as lm-eval's own
    classes do: ``simple_evaluate(model=Microscope(...))``.
    """

    def __new__(cls, pretrained: Any, processor: Any = None, **model_args: Any) -> LM:
        return cls.create_from_arg_obj({"pretrained": pretrained, "processor": processor, **model_args})

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None) -> LM:
        """Loads the model that ``--model_args`` names, or takes the one in memory that they hold."""
        arguments = {**arg_dict, **(additional_config or {})}
        model, processor = arguments.get("pretrained"), arguments.pop("processor", None)
        if isinstance(model, nn.Module | Adapter):
            given = sort_arguments({**arguments, "pretrained": "in-memory"}, MODELS)
            named = {key: value for key, value in given.adapter.items() if key != "pretrained"}
            adapter = load_adapter_for(model, RunConfig(model_args=named), processor)
        elif ".py:" in str(model):
            name = str(model).rpartition(":")[2]
            raise AdapterError(
                f"{model}: a model of your own goes to lm-eval from Python: simple_evaluate(model=Microscope("
                f"pretrained={name}(...)), tasks=[...]); or measure it with: microscope-bench run"
            )
        else:
            given = sort_arguments(arguments, MODELS)
            adapter = load_model(given.model, given.adapter, given.device)
        if isinstance(adapter, OwnModel):
            options = {key: value for key, value in given.lm_eval.items() if key != "max_batch_size"}
            refuse_unknown_args(options, ("batch_size",))
            return OwnModelLM(adapter, given.config, at_least(1)("batch_size", options.get("batch_size", 1)))
        if not isinstance(adapter, HFAdapter) or adapter.model.config.is_encoder_decoder:
            raise AdapterError(
                f"{adapter.info.name} is no decoder of transformers, which lm-eval's scoring needs; measure its "
                f"geometry with: microscope-bench run"
            )
        kind = TextModel if adapter.processor is None else ImageModel
        return kind(adapter, given.config, **given.lm_eval)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> LM:
        """The same from "key=value,key=value"."""
        return cls.create_from_arg_obj(key_values("--model_args", arg_string), additional_config)
