"""Several nets of one kind as one, which says the mean of their logits.

It is a net like any other: what they see goes through each, and one head reads the features of all.
So what asks a net for its logits, its features or its stages asks an ensemble the same way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thaw.errors import UserError
from thaw.nets.stages import find_head, partition


class Ensemble(nn.Module):
    """Images `[B, 3, H, W]` → the mean of the nets' logits `[B, classes]`.

    The head's weights are the nets' side by side, over their number.

    Args:
        nets: of one kind, each with a Linear head; they are taken apart.

    Raises:
        UserError: a head isn't linear.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages: dict[str, list[str]] = {}  # as `partition` gives them: those of each net
        heads: list[nn.Linear] = []
        for i, net in enumerate(nets):
            path = find_head(net)
            for name, paths in partition(net, path).items():
                own = "features" if name == "head" else name  # what is left of it makes them
                self.stages[f"net{i + 1}.{own}"] = [f"nets.{i}.{place}" for place in paths]
            head = net.get_submodule(path)
            if not isinstance(head, nn.Linear):
                raise UserError(
                    f"Expected nets with a linear head for an ensemble, but that of"
                    f" {type(net).__name__} is a {type(head).__name__}."
                )
            heads.append(head)
            net.set_submodule(path, nn.Identity())
        self.stages["head"] = ["head"]
        self.nets = nn.ModuleList(nets)
        width = sum(head.in_features for head in heads)
        biases: list[Tensor] = [head.bias for head in heads if head.bias is not None]
        self.head = nn.Linear(width, heads[0].out_features, bias=bool(biases))
        with torch.no_grad():
            self.head.weight.copy_(torch.cat([h.weight for h in heads], dim=1) / len(heads))
            if biases:
                self.head.bias.copy_(torch.stack(biases).mean(dim=0))

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        return self.head(torch.cat([net(images) for net in self.nets], dim=1))
