"""torch's multi-head attention in a form that can lose heads, and dimensions within them.

`nn.MultiheadAttention` takes the size of a head from that of its input: embed_dim // num_heads. A network that lost
some heads, some dimensions of each head, or channels of its input has no such form.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ExplicitAttention", "with_explicit_attention"]


class ExplicitAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` that takes its sizes from its tensors, and its scale from what it was made of.

    Queries and keys may have fewer dimensions per head than values, and all heads together fewer than the input.
    Parameters keep their names and their order: the rows of `in_proj_weight` are those of queries, keys and values.

    num_heads: number of heads.
    query_rows: rows of the queries, and as many of the keys.
    scale: factor of the products of queries and keys.
    """

    scale: float
    query_rows: int

    def __init__(self, original: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(original.__dict__)
        self.scale = (original.embed_dim // original.num_heads) ** -0.5
        self._qkv_same_embed_dim = False  # else an encoder layer in eval mode computes attention itself
        self.update_sizes()

    def update_sizes(self) -> None:
        """Set the attributes in which the sizes of the tensors are stored."""
        packed: Tensor | None = self.in_proj_weight
        if packed is None:
            self.query_rows, self.embed_dim = self.q_proj_weight.shape
        else:
            self.query_rows = (len(packed) - self.out_proj.weight.shape[1]) // 2
            self.embed_dim = packed.shape[1]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(outputs, weights or None), as of `nn.MultiheadAttention`."""
        batched, alike = query.dim() == 3, query is key and key is value
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = map(self._heads, self._projected(query, key, value, alike=alike))  # (B, heads, L, dimensions)
        mask = self._mask(attn_mask, key_padding_mask, q, is_causal=is_causal)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        if mask is not None and k.shape[2] > mask.shape[-1]:
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, *, alike: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, heads * dimensions) of queries, keys and values."""
        bias, packed = self.in_proj_bias, self.in_proj_weight
        ends = (0, self.query_rows, 2 * self.query_rows, None)
        parts = [slice(first, last) for first, last in itertools.pairwise(ends)]
        if alike and packed is not None:
            y = F.linear(query, packed, bias)
            q, k, v = (y[..., part] for part in parts)
        else:
            weights = [packed[part] for part in parts] if packed is not None else self._weights()
            biases = [None if bias is None else bias[part] for part in parts]
            q, k, v = map(F.linear, (query, key, value), weights, biases)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([y, b.expand(len(y), -1, -1)], 1) for y, b in ((k, self.bias_k), (v, self.bias_v)))
        return q, k, v

    def _weights(self) -> list[Tensor]:
        return [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]

    def _heads(self, y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], y.shape[1], self.num_heads, -1).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor, *, is_causal: bool) -> Tensor | None:
        """What is added to the scores (B, heads, L, S), of that shape or broadcast to it; None if nothing is."""
        if mask is None and is_causal:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # as torch does
        added = _added(mask, q)
        if added is not None and added.dim() == 3:  # for each image and head of the network that it was made for
            added = added.unflatten(0, (len(q), -1))[:, : self.num_heads]
        if padding is None:
            return added
        hidden = _added(padding, q).reshape(len(q), 1, 1, -1)  # type: ignore[union-attr]
        return hidden if added is None else hidden + added


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add, of the type of `like`: minus infinity where a boolean one holds."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def with_explicit_attention(model: nn.Module) -> nn.Module:
    """`model`, in place, with `ExplicitAttention` instead of torch's attention."""
    places = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if name and type(module) is nn.MultiheadAttention
    ]
    explicit = {module: ExplicitAttention(module) for _, module in places}
    for name, module in places:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, explicit[module])
    return model
