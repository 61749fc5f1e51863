"""Where an encoder of the BERT family keeps its parts: which sizes must change together.

Knows the names that transformers gives BERT, RoBERTa and XLM-RoBERTa. Knows nothing of what is cut, or why.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ondevice.errors import UnsupportedModel

SUPPORTED = "BERT, RoBERTa and XLM-RoBERTa"


@dataclass(frozen=True)
class Block:
    """One layer of the encoder, by the full names of its parts.

    query, key, value: (heads * head_size, hidden). attended: the projection of the heads' results, (hidden,
    heads * head_size). intermediate: (neurons, hidden). output: (hidden, neurons).
    """

    name: str
    query: str
    key: str
    value: str
    attended: str
    intermediate: str
    output: str
    head_size: int


def stack_of(module: nn.Module) -> str:
    """The full name of the list that holds the encoder's layers. Raises UnsupportedModel elsewhere."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and name.endswith("encoder.layer") and len(part):
            try:
                part[0].get_submodule("attention.self.query")
            except AttributeError:
                continue
            return str(name)
    raise UnsupportedModel(
        f"{type(module).__name__} has no structure that is known here; heads, neurons and layers can be cut "
        f"from: {SUPPORTED}"
    )


def blocks(module: nn.Module) -> list[Block]:
    """The encoder's layers, first to last. Raises UnsupportedModel for other architectures."""
    stack = stack_of(module)
    found = []
    for index, layer in enumerate(module.get_submodule(stack).children()):
        name = f"{stack}.{index}"
        attention = layer.get_submodule("attention.self")
        found.append(
            Block(
                name,
                query=f"{name}.attention.self.query",
                key=f"{name}.attention.self.key",
                value=f"{name}.attention.self.value",
                attended=f"{name}.attention.output.dense",
                intermediate=f"{name}.intermediate.dense",
                output=f"{name}.output.dense",
                head_size=int(attention.attention_head_size),  # type: ignore[arg-type]
            )
        )
    return found
