"""The sequence model's network in torch, for training only; `models.sequence` serves it without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.sequence import Z_MAX, SequenceSpec
from models.windows import ahead_width, past_width


class SequenceNetwork(nn.Module):
    """The LSTM and its head, in the network's units: ``log1p(q / scale)`` for quantiles, ``q / scale`` for the mean."""

    def __init__(self, spec: SequenceSpec, dropout: float = 0.0) -> None:
        super().__init__()
        covariates = len(spec.covariates)
        self.lstm = nn.LSTM(past_width(covariates), spec.hidden, batch_first=True)
        self.head = nn.Linear(spec.hidden + ahead_width(covariates), spec.head)
        self.out = nn.Linear(spec.head, len(spec.quantiles) + 1)
        self.drop = nn.Dropout(dropout)
        with torch.no_grad():
            self.out.weight.mul_(0.3)
            self.out.bias.fill_(-2.0)  # start with narrow intervals near zero

    def forward(self, past: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, context, …)`` and ``(batch, horizon, …)`` to quantiles ``(batch, horizon, Q)`` and the mean."""
        _, (state, _) = self.lstm(past)
        state = self.drop(state[0])[:, None, :].expand(-1, ahead.shape[1], -1)
        layer = self.drop(torch.relu(self.head(torch.cat([state, ahead], dim=-1))))
        out = self.out(layer).float()
        first, steps, mean = out[..., :1], out[..., 1:-1], out[..., -1]
        z = torch.cat([first, first + torch.cumsum(functional.softplus(steps), dim=-1)], dim=-1)
        return torch.clamp(z, max=Z_MAX), functional.softplus(mean)


def tensors_of(network: SequenceNetwork) -> dict[str, NDArray[np.float32]]:
    """Return a copy of the weights as `SequenceForecaster.from_tensors` takes them."""
    return {name: value.detach().float().cpu().numpy().copy() for name, value in network.state_dict().items()}


def load_tensors(network: SequenceNetwork, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the weights."""
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in tensors.items()})
