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
    """A function of CUDA tensors, None among them, to one: recorded as one CUDA graph per shape; replaying costs one launch."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one for all shapes: a result is copied before the next graph runs

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        key = tuple(None if values is None else (values.shape, values.dtype) for values in inputs)
        if key not in self._graphs:
            self._graphs[key] = self._capture([None if values is None else values.clone() for values in inputs])
        graph, static, out = self._graphs[key]
        for place, values in zip(static, inputs, strict=True):
            if place is not None and values is not None:
                place.copy_(values)
        graph.replay()
        return out.clone()  # the next replay writes over `out`

    def _capture(self, static: list[Tensor | None]) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor]:
        # Warm up on another stream, as capturing demands: kernels are chosen, compiled and their memory is found here.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.function(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = self.function(*static)
        return graph, static, out
