"""Loads models by name: registered adapters, named models, and adapters in a user's file. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from msgspec import structs

from microscope_bench.adapters.model_args import ADAPTER_ARGS, LOCAL_HINT, check_args, recorded_options, title_arg
from microscope_bench.adapters.published_checkpoints import PUBLISHED, Published
from microscope_bench.errors import AdapterError, said, unknown_name
from microscope_bench.identity import UNTRAINED
from microscope_bench.system.hub import is_offline, resolve_commit
from microscope_bench.system.key_values import key_values
from microscope_bench.system.lazy_registry import Registry
from microscope_bench.system.local_code import FreshLoader, local_code_digest

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter

_HINT = "List them with: microscope-bench ls models. An adapter of your own: path/to/file.py:ClassName"

ADAPTERS: Registry[type[Adapter]] = Registry(
    "adapter",
    {
        "hf": "microscope_bench.adapters.hf:HFAdapter",
        "omnifusion": "microscope_bench.adapters.omnifusion.adapter:OmniFusionAdapter",
    },
    group="microscope_bench.adapters",
    hint=_HINT,
)


@dataclass(frozen=True)
class Preset:
    """A model with a name: an adapter and the arguments to load it with."""

    name: str  # what ``--model`` and the result file call it
    adapter: str  # the registered name of the adapter that loads it
    description: str  # one line for ``ls models``
    args: Mapping[str, str] = field(default_factory=dict)  # its model args; the user's come on top
    # ``"module:function"`` of a function that takes the name, makes or checks the checkpoint and returns its
    # directory, which becomes ``pretrained``
    build: str | None = None
    published: Published | None = None  # what its publisher says of the checkpoint, for one of a hub
    fusion: str = ""  # how media meet the text


ZOO_PREFIX = "zoo-"
ZOO_FUSIONS = {
    "llava": ("hf", "LLaVA: a two-layer MLP on each of 16 patches", "projector"),
    "llava-next": (
        "hf",
        "LLaVA-NeXT: a two-layer MLP on each patch of the picture and of its 2 × 2 tiles",
        "projector",
    ),
    "omnifusion": (
        "omnifusion",
        "OmniFusion: a transformer layer over the patches, learned marks around them",
        "projector",
    ),
    "qformer": ("hf", "BLIP-2: 16 queries of a Q-Former stand for the picture", "qformer"),
    "fuyu": ("hf", "Fuyu: no encoder, the pixels of a patch through one linear map", "encoder-free"),
}
"""Fusion → adapter, one line on it and fusion class; the models are ``zoo-<fusion>`` and ``zoo-<fusion>-untrained``."""


_ZOO_VARIANTS = (("", "trained", "shipped_model"), (UNTRAINED, "untrained", "untrained_checkpoint"))


def _zoo() -> list[Preset]:
    """The zoo's models and their untrained twins. Weights are stored in float16 and computed with in float32."""
    return [
        Preset(
            name=f"{ZOO_PREFIX}{fusion}{suffix}",
            adapter=adapter,
            description=f"tiny, {what}; {description}",
            args={"dtype": "float32"},
            build=f"microscope_bench.zoo.shipped:{build}",
            fusion=fusion_class,
        )
        for suffix, what, build in _ZOO_VARIANTS
        for fusion, (adapter, description, fusion_class) in ZOO_FUSIONS.items()
    ]


def _of_hubs() -> list[Preset]:
    return [
        Preset(
            name=name,
            adapter=model.adapter,
            description=f"{model.repo}@main{'' if model.verified else ', unverified'}",
            args={"pretrained": model.repo},
            published=model,
            fusion=model.fusion,
        )
        for name, model in PUBLISHED.items()
    ]


MODELS: dict[str, Preset] = {preset.name: preset for preset in (*_zoo(), *_of_hubs())}


def load_model(name: str, model_args: Mapping[str, str] | str | None = None, device: str | None = None) -> Adapter:
    """Loads a model by name.

    Args:
        name: a named model, an adapter (``hf``), or ``path/to/file.py:ClassName`` for an adapter of your own.
        model_args: ``"key=value,key=value"`` or a mapping; each adapter defines its own keys. ``name`` is what results
            and tables call the model, for a directory such as ``checkpoint-500`` whose own name says nothing.
        device: "cpu", "cuda", ...; None means a GPU where there is one.

    Raises:
        UnknownNameError: no such model, adapter or argument.
        AdapterError: the model cannot be loaded.
    """
    args = dict(key_values("--model_args", model_args))
    title = title_arg(args.pop("name", None))
    adapter = _loaded(name, args, device)
    if title is not None:
        adapter.info = structs.replace(adapter.info, name=title)
    return adapter


def _loaded(name: str, args: Mapping[str, str], device: str | None) -> Adapter:
    from microscope_bench.adapters.base import Adapter

    check_model(name, args)
    if name in MODELS:
        return _load_preset(MODELS[name], args, device)
    if ".py:" in name:
        found, module = adapter_from_file(name)
        loaded = found.load(args, device=device)
        file, _, attribute = name.rpartition(":")
        code = local_code_digest(module, is_local=True)
        return _identified(loaded, f"{Path(file).name}:{attribute}@{code}", args)
    adapter = ADAPTERS.get(name)
    if not (inspect.isclass(adapter) and issubclass(adapter, Adapter)):
        raise AdapterError(f"{name}: the entry point of this name gives {adapter!r}, which is no subclass of Adapter")
    loaded = adapter.load(args, device=device)
    code = ADAPTERS.code_of(name)
    return _identified(loaded, name if code is None else f"{name}@{code}", args)


def check_model(name: str, model_args: Mapping[str, str]) -> None:
    """Raises an UnknownNameError or AdapterError where nothing has that name, or where it does not take these args.

    Imports nothing that takes long, and says nothing of the args of an adapter that is not of this package.
    """
    if ".py:" in name:
        file = name.rpartition(":")[0]
        if not Path(file).expanduser().is_file():
            raise AdapterError(f"{name}: there is no file {file}")
        return
    preset = MODELS.get(name)
    if preset is None and name not in ADAPTERS:
        path = "A checkpoint goes by --model hf --model_args pretrained=DIR. " if "/" in name else ""
        raise unknown_name("model", name, [*MODELS, *ADAPTERS], path + _HINT)
    adapter, args = name, {key: value for key, value in model_args.items() if key != "name"}
    if preset is not None:
        for key in ("pretrained",) if preset.published else ("pretrained", "revision"):
            if key in args:
                raise AdapterError(
                    f"{name} is one fixed model, so {key}={args[key]} cannot be given; use --model {preset.adapter}"
                )
        adapter, args = preset.adapter, {"pretrained": name, **preset.args, **args}
    if adapter in ADAPTER_ARGS:
        check_args(adapter, args)
        if preset is None or preset.build is None:
            _check_cached(args["pretrained"], args.get("revision"), LOCAL_HINT if preset is None else _hint_of(preset))


def _check_cached(pretrained: str, revision: str | None, local_hint: str) -> None:
    """Raises where the hub is not to be asked, and its cache has nothing of that repository."""
    if not Path(pretrained).expanduser().exists() and is_offline():
        resolve_commit(pretrained, revision, "model", local_hint=local_hint, error_type=AdapterError)


def _hint_of(preset: Preset) -> str:
    return f"take a local directory: --model {preset.adapter} --model_args pretrained=DIR"


def adapter_from_file(name: str) -> tuple[type[Adapter], ModuleType]:
    """The adapter class behind ``path/to/file.py:ClassName``, and its module.

    Runs that file, and raises an AdapterError where it cannot.
    """
    from microscope_bench.adapters.base import Adapter

    check_model(name, {})
    file, _, attribute = name.rpartition(":")
    path = Path(file).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise AdapterError(f"{name}: {file} is not a Python file")
    spec.loader = FreshLoader(spec.name, str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles of the file look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and a script ends by itself
        raise AdapterError(f"{name}: {file} does not import ({said(error)})") from error
    found = getattr(module, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, Adapter)):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Adapter)]
        raise AdapterError(
            f"{name}: {attribute!r} is not a subclass of microscope_bench.adapters.base.Adapter; the file has: "
            f"{', '.join(key for key in classes if key != 'Adapter') or 'none'}"
        )
    return found, module


def _identified(adapter: Adapter, name: str, args: Mapping[str, str]) -> Adapter:
    """The adapter with this name and its options in its identity, also where a subclass inherited another's."""
    adapter.info = structs.replace(adapter.info, adapter=name, options=recorded_options(args))
    return adapter


def _load_preset(preset: Preset, args: Mapping[str, str], device: str | None) -> Adapter:
    built: dict[str, str] = {}
    if preset.build is not None:
        module, _, function = preset.build.partition(":")
        built["pretrained"] = str(getattr(importlib.import_module(module), function)(preset.name))
    try:
        adapter = ADAPTERS.get(preset.adapter).load({**preset.args, **built, **args}, device=device)
    except AdapterError as error:
        if LOCAL_HINT not in str(error):
            raise
        raise AdapterError(str(error).replace(LOCAL_HINT, _hint_of(preset))) from error
    _identified(adapter, preset.adapter, args)
    if preset.build is not None:  # the name of a cache directory says nothing
        adapter.info = structs.replace(adapter.info, name=preset.name, repo=preset.name)
    return adapter
