"""What a tensor of a published Next-DiT is called: in the original files, in diffusers, in older files, and here."""

from __future__ import annotations

from lumina_core.errors import CheckpointError
from lumina_core.weights import published

PAD = "pad_token"
"""Published, without any influence on a result (its gradient is zero); kept for the way back."""

BLOCKS = "layers"
"""What the list of blocks is called in published files."""
_OUTER = {
    "x_embedder.": "backbone.embed.",
    "y_embedder.embedding_table.": "conditioners.label.table.",
    **published.OUTER,
}
_INNER = {
    "attention_norm1.": "attention_norm1.",
    "attention_norm2.": "attention_norm2.",
    "ffn_norm1.": "feed_norm1.",
    "ffn_norm2.": "feed_norm2.",
    "attention_norm.": "attention_norm2.",  # the ImageNet models' only norms stand behind the branches
    "ffn_norm.": "feed_norm2.",
    **published.INNER,
}
_OF_IMAGENET = {"attention_norm.", "ffn_norm."}

_DIFFUSERS = {
    "x_embedder.": ("patch_embedder.proj.",),
    "t_embedder.mlp.0.": ("time_caption_embed.timestep_embedder.linear_1.",),
    "t_embedder.mlp.2.": ("time_caption_embed.timestep_embedder.linear_2.",),
    "cap_embedder.": ("time_caption_embed.caption_embedder.",),
    "final_layer.adaLN_modulation.1.": ("norm_out.linear_1.",),
    "final_layer.linear.": ("norm_out.linear_2.",),
    "adaLN_modulation.1.": ("norm1.linear.",),
    "attention_norm1.": ("norm1.norm.",),
    "attention_norm2.": ("norm2.",),
    "attention_y_norm.": ("norm1_context.",),
    "attention.gate": ("gate",),
    "attention.wq.": ("attn1.to_q.", "attn2.to_q."),
    "attention.wk_y.": ("attn2.to_k.",),
    "attention.wv_y.": ("attn2.to_v.",),
    "attention.wk.": ("attn1.to_k.",),
    "attention.wv.": ("attn1.to_v.",),
    "attention.wo.": ("attn2.to_out.0.",),
    "attention.q_norm.": ("attn1.norm_q.", "attn2.norm_q."),
    "attention.k_norm.": ("attn1.norm_k.",),
    "attention.ky_norm.": ("attn2.norm_k.",),
    "feed_forward.w1.": ("feed_forward.linear_1.",),
    "feed_forward.w2.": ("feed_forward.linear_2.",),
    "feed_forward.w3.": ("feed_forward.linear_3.",),
}
"""Beginnings of names, those of a block without `layers.N.`; the query stands twice. Others keep their names."""

_OLDER = {
    "patch_embedder.": "patch_embedder.proj.",
    "adaLN_modulation.1.": "norm1.linear.",
    "attn_norm1.": "norm1.norm.",
    "attn_norm2.": "norm2.",
    "final_layer.adaLN_modulation.1.": "norm_out.linear_1.",
    "final_layer.linear.": "norm_out.linear_2.",
}
"""What the converter in diffusers' repository still writes, and what the model there is called by now."""


def ours(original: str) -> str:
    """Our name for a tensor of the original layout that is not joined with others.

    Raises:
        CheckpointError: no published Next-DiT has such a tensor.
    """
    if original == PAD:
        return original
    block, rest = split(original)
    found = published.renamed(rest, _INNER if block else _OUTER)
    if found is not None:
        return (f"{published.OURS}.{block}." if block else "") + found
    raise CheckpointError(f"no tensor of a published Next-DiT is called '{original}'")


def original(name: str, imagenet: bool = False) -> str:
    """The original name of a tensor of ours that is not joined.

    Raises:
        CheckpointError: the layout has no place for it.
    """
    if name == PAD:
        return name
    block, rest = published.split(name, published.OURS)
    for theirs, here in (_INNER if block else _OUTER).items():
        of_imagenet = imagenet and here in ("attention_norm2.", "feed_norm2.")
        if rest.startswith(here) and (theirs in _OF_IMAGENET) == of_imagenet:
            return (f"{BLOCKS}.{block}." if block else "") + theirs + rest[len(here) :]
    raise CheckpointError(f"'{name}' has no name in the published layout")


def in_diffusers(name: str) -> tuple[str, ...]:
    """The names that a tensor of the original layout has in diffusers: two for the query and its norm."""
    block, rest = split(name)
    front = f"{BLOCKS}.{block}." if block else ""
    for begin, theirs in _DIFFUSERS.items():
        if rest.startswith(begin):
            return tuple(front + other + rest[len(begin) :] for other in theirs)
    return (name,)


def current(name: str) -> str:
    """What diffusers calls a tensor by now that its older converter has named."""
    block, rest = split(name)
    rest = next((new + rest[len(old) :] for old, new in _OLDER.items() if _begins(rest, old, new)), rest)
    return f"{BLOCKS}.{block}.{rest}" if block else rest


def from_diffusers(name: str) -> str:
    """The original name of a tensor that diffusers calls so; unknown names stay."""
    block, rest = split(name)
    front = f"{BLOCKS}.{block}." if block else ""
    for begin, theirs in _DIFFUSERS.items():
        for other in theirs:
            if rest.startswith(other):
                return front + begin + rest[len(other) :]
    return front + rest


def _begins(name: str, old: str, new: str) -> bool:
    # `patch_embedder.` begins the new name too
    return name.startswith(old) and not name.startswith(new)


def split(name: str) -> tuple[str, str]:
    """The number of a block and the rest of a published name; an empty number outside the blocks."""
    return published.split(name, BLOCKS)
