"""A trained network as a fast function of (x_t, t, context) for sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.machine.precision import autocast, configure, memory_format, resolve_precision

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def prepare(network: nn.Module, precision: str, device: torch.device, compile: bool = False) -> Call:
    """`network` as a function of x_t (B, C, H, W), t (B,) and, or None, a context (B, context_dim) on `device`, without
    gradients; `network` itself is changed.

    bf16: the weights that autocast would cast at every call are cast once, which changes no bit of the result.
    `compile`: through torch.compile, once a shape. On a GPU each shape's kernels are captured in one graph either way.
    """
    configure(precision, device)
    network.to(device).to(memory_format=memory_format(device)).eval().requires_grad_(False)
    if resolve_precision(precision, device) == "bf16":
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.to(torch.bfloat16)
    inner: Any = network
    if compile and device.type == "cuda":
        inner = torch.compile(network, dynamic=False)
    elif compile:
        # freezing: weights become constants, laid out once as oneDNN wants them.
        inner = torch.compile(network, dynamic=False, options={"freezing": True})

    @torch.no_grad()
    def call(x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        with autocast(precision, device):
            return inner(x_t, t, context)

    return CapturedCall(call) if device.type == "cuda" else call


class CapturedCall:
    """A function of CUDA tensors (x_t, t, context), recorded as one CUDA graph per shape: replaying it costs one launch."""

    def __init__(self, function: Call) -> None:
        self.function = function
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        inputs = [x_t, t] if context is None else [x_t, t, context]
        key = (x_t.shape, x_t.dtype, len(inputs))
        if key not in self._graphs:
            self._graphs[key] = self._capture([values.clone() for values in inputs])
        graph, static, out = self._graphs[key]
        for place, values in zip(static, inputs, strict=True):
            place.copy_(values)
        graph.replay()
        return out.clone()  # the next replay writes over `out`

    def _capture(self, static: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        x_t, t, context = [*static, None][:3]
        assert x_t is not None
        assert t is not None
        # Warm up on another stream, as capturing demands: kernels are chosen, compiled and their memory is found here.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.function(x_t, t, context)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.function(x_t, t, context)
        return graph, static, out
