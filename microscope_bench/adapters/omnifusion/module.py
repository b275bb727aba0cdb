"""OmniFusion as one module: a CLIP tower and a small projection write a picture into a language model's embeddings.

Layout and layer sizes: the model card of AIRI-Institute/OmniFusion and its public training code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.adapters.untrained_weights import untrained_twin

SPECIAL_MARKS = {"SOI": -201, "EOI": -202, "USER": -203, "BOT": -204}
"""Ids by which a token sequence names the four learned embeddings that are not in the vocabulary."""
IMAGE_MARK = -200
"""Id by which a token sequence names one image position."""


class VisualToGPTMapping(nn.Module):
    """The projection: one post-norm transformer layer over the patches of a picture, then a linear map.

    Class and attribute names are the published ones, since they are the keys of ``projection.pt``.
    """

    def __init__(self, vision_size: int, text_size: int, feed_forward: int = 2048, heads: int = 4) -> None:
        super().__init__()
        self.transformer_layer = nn.TransformerEncoderLayer(vision_size, heads, feed_forward, batch_first=True)
        self.linear = nn.Linear(vision_size, text_size)

    def forward(self, patches: Tensor) -> Tensor:
        return self.linear(self.transformer_layer(patches))  # type: ignore[no-any-return]


class OmniFusionModel(nn.Module):
    """A ``CLIPVisionModel``, a projection, special embeddings by :data:`SPECIAL_MARKS` and a causal language model."""

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
        return self.language_model.config

    def untrained_twin(self) -> OmniFusionModel:
        """The same model with the weights it has before training, on the same device; seed it as ``untrained_twin``.

        The published files do not say how the special embeddings began; here they begin as the language model's do.
        """
        language_model = untrained_twin(self.language_model)
        layer, linear = self.projection.transformer_layer, self.projection.linear
        heads, feed_forward = layer.self_attn.num_heads, layer.linear1.out_features
        projection = VisualToGPTMapping(linear.in_features, linear.out_features, feed_forward, heads)
        spread = language_model.config.initializer_range
        special = {name: spread * torch.randn(vector.shape) for name, vector in self.special_embeddings.items()}
        twin = OmniFusionModel(language_model, untrained_twin(self.vision_tower), projection, special)
        return twin.to(self.language_model.device, self.language_model.dtype).eval()

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        """The sequence (B, S, d) that block 1 receives; ``pixel_values``, (n, 3, H, W): at most one picture a row."""
        embeddings = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        for name, mark in SPECIAL_MARKS.items():
            embeddings[input_ids == mark] = self.special_embeddings[name]
        if pixel_values is not None:
            states = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2]
            embeddings[input_ids == IMAGE_MARK] = self.projection(states[:, 1:]).flatten(0, 1)  # without the CLS token
        return embeddings  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """One pass of the language model over :meth:`embed`; logits at ``logits_to_keep`` (0: at all positions)."""
        return self.language_model(
            inputs_embeds=self.embed(input_ids, pixel_values),
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            **{"use_cache": False, **kwargs},
        )
