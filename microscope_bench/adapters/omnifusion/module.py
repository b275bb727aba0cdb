"""OmniFusion as one module: a CLIP tower and a small projection write a picture into a language model's embeddings.

Layout and layer sizes: the model card of AIRI-Institute/OmniFusion and its public training code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.adapters.initialisation import untrained_twin

SPECIAL_MARKS = {"SOI": -201, "EOI": -202, "USER": -203, "BOT": -204}
"""Ids by which a token sequence names the four learned embeddings that are not in the vocabulary."""
IMAGE_MARK = -200
"""Id by which a token sequence names one image position."""


class VisualToGPTMapping(nn.Module):
    """The projection: one post-norm transformer layer over the patches of a picture, then a linear map.

    Class and attribute names are the published ones, since they are the keys of ``projection.pt``.

    Args:
        vision_size: width of the vision tower.
        text_size: width of the language model.
        feed_forward: width of the transformer layer's inner layer.
        heads: attention heads of the transformer layer.
    """

    def __init__(self, vision_size: int, text_size: int, feed_forward: int = 2048, heads: int = 4) -> None:
        super().__init__()
        self.transformer_layer = nn.TransformerEncoderLayer(vision_size, heads, feed_forward, batch_first=True)
        self.linear = nn.Linear(vision_size, text_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps patches (n, patches, vision_size) to embeddings (n, patches, text_size)."""
        return self.linear(self.transformer_layer(patches))  # type: ignore[no-any-return]


class OmniFusionModel(nn.Module):
    """Vision tower, projection, special embeddings and language model.

    Args:
        language_model: a causal language model of transformers.
        vision_tower: a ``CLIPVisionModel``.
        projection: maps the tower's patches to the language model's embeddings.
        special_embeddings: name (a key of :data:`SPECIAL_MARKS`) → (d,) tensor.
    """

    def __init__(
        self,
        language_model: nn.Module,
        vision_tower: nn.Module,
        projection: VisualToGPTMapping,
        special_embeddings: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.language_model: Any = language_model
        self.vision_tower: Any = vision_tower
        self.projection = projection
        self.special_embeddings = nn.ParameterDict(dict(special_embeddings))

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.language_model.config

    def untrained_twin(self) -> OmniFusionModel:
        """The same model with the weights it has before training, on the same device; this one stays as it is.

        To be called inside :func:`~microscope_bench.adapters.initialisation.seeded_initialisation`.

        The published files do not say how the special embeddings began; here it is as the language model's own do.
        """
        language_model = untrained_twin(self.language_model)
        layer, linear = self.projection.transformer_layer, self.projection.linear
        heads, feed_forward = layer.self_attn.num_heads, layer.linear1.out_features
        projection = VisualToGPTMapping(linear.in_features, linear.out_features, feed_forward, heads)
        spread = language_model.config.initializer_range
        special = {name: spread * torch.randn(vector.shape) for name, vector in self.special_embeddings.items()}
        twin = OmniFusionModel(language_model, untrained_twin(self.vision_tower), projection, special)
        return twin.to(self.language_model.device, self.language_model.dtype).eval()

    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) to embeddings (n, patches, d): the tower's last but one layer without its CLS token."""
        states = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2]
        return self.projection(states[:, 1:])  # type: ignore[no-any-return]

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        """The sequence that block 1 receives.

        Args:
            input_ids: int64 (B, S), vocabulary ids and the marks of this module.
            pixel_values: (n, 3, H, W), the pictures in the order of their rows, at most one a row.

        Returns:
            (B, S, d).
        """
        embeddings = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        for name, mark in SPECIAL_MARKS.items():
            embeddings[input_ids == mark] = self.special_embeddings[name]
        if pixel_values is not None:
            embeddings[input_ids == IMAGE_MARK] = self.image_embeddings(pixel_values).flatten(0, 1)
        return embeddings  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """One pass of the language model over :meth:`embed`, without KV cache.

        Args:
            input_ids: int64 (B, S), see :meth:`embed`.
            attention_mask: int64 (B, S), 0 where a row is padded.
            pixel_values: (n, 3, H, W), see :meth:`embed`.
            logits_to_keep: the positions to compute logits at; 0 means all of them.
            kwargs: passed on to the language model (``output_hidden_states``).

        Returns:
            The language model's output, ``logits`` (B, K, vocabulary) among it.
        """
        return self.language_model(
            inputs_embeds=self.embed(input_ids, pixel_values),
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            **{"use_cache": False, **kwargs},
        )
