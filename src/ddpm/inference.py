"""A trained network as a fast function of (x_t, t) for sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm.precision import autocast, configure, memory_format, resolve_precision

Call = Callable[[Tensor, Tensor], Tensor]


def prepare(network: nn.Module, precision: str, device: torch.device, compile: bool = False) -> Call:
    """`network` as a function of x_t (B, C, H, W) and t (B,) on `device`, without gradients; `network` itself is changed.

    bf16: the weights that autocast would cast at every call are cast once, which changes no bit of the result.
    `compile`: through torch.compile, once a shape. On a GPU each shape's kernels are captured in one graph either way.
    """
    configure(precision, device)
    network.to(device).to(memory_format=memory_format(device)).eval().requires_grad_(False)
    if resolve_precision(precision, device) == "bf16":
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(torch.bfloat16)
    inner: Call = network
    if compile and device.type == "cuda":
        inner = torch.compile(network, dynamic=False)
    elif compile:
        # freezing: weights become constants, laid out once as oneDNN wants them.
        inner = torch.compile(network, dynamic=False, options={"freezing": True})

    @torch.no_grad()
    def call(x_t: Tensor, t: Tensor) -> Tensor:
        with autocast(precision, device):
            return inner(x_t, t)

    return CapturedCall(call) if device.type == "cuda" else call


class CapturedCall:
    """A function of CUDA tensors (x_t, t), recorded as one CUDA graph per shape: replaying it costs one launch."""

    def __init__(self, function: Call) -> None:
        self.function = function
        self._graphs: dict[tuple[torch.Size, torch.dtype], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        key = (x_t.shape, x_t.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._capture(x_t.clone(), t.clone())
        graph, static_x_t, static_t, out = self._graphs[key]
        static_x_t.copy_(x_t)
        static_t.copy_(t)
        graph.replay()
        return out.clone()  # the next replay writes over `out`

    def _capture(self, x_t: Tensor, t: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        # Warm up on another stream, as capturing demands: kernels are chosen, compiled and their memory is found here.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.function(x_t, t)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.function(x_t, t)
        return graph, x_t, t, out
