"""Draw images with numpy and onnxruntime alone: python examples/sample_onnx.py FOLDER [COUNT [SEED]] writes samples.ppm.

FOLDER is what `python -m tools.export` wrote. Image i of a seed is the one that the library draws by `ddim` over that grid.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime


def philox_normal(seed, image, count):  # draw 0 of an image's stream: ddpm.sampling.noise says how it is laid out
    c = [np.arange(-(-count // 4), dtype=np.uint64), np.uint64(image), np.uint64(0), np.uint64(0)]
    low, k = np.uint64(2**32 - 1), [seed, 0]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    words = np.stack(np.broadcast_arrays(*c), -1).astype(np.float32)
    radius = np.sqrt(-2 * np.log((words[:, ::2] + 1) * np.float32(2**-32)))
    angle = words[:, 1::2] * np.float32(2 * np.pi * 2**-32)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1)[:count]


folder, (count, seed) = Path(sys.argv[1]), map(int, (sys.argv[2:] + ["4", "0"][len(sys.argv) - 2 :]))
facts = json.loads((folder / "model.json").read_text())
model = onnxruntime.InferenceSession(folder / facts["file"], providers=["CPUExecutionProvider"])
x = np.stack([philox_normal(seed, i, np.prod(facts["shape"])).reshape(facts["shape"]) for i in range(count)])
more = {}
if kinds := len(facts["classes"]):  # all in turn
    more = {"context": np.eye(kinds, dtype=np.float32)[np.arange(count) % kinds], "guidance": np.array(2, np.float32)}
alpha_bar = facts["alpha_bar"]
for t, t_prev in pairwise(facts["grid"]):
    (x0,) = model.run(None, {"x_t": x, "t": np.full(count, t), **more})
    (signal, noise), (signal_prev, noise_prev) = ((a**0.5, (1 - a) ** 0.5) for a in (alpha_bar[t], alpha_bar[t_prev]))
    x = (signal_prev * x0 + noise_prev / noise * (x - signal * x0)).astype(np.float32)
pixels = np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
row = np.concatenate(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), axis=1)  # the images side by side; gray ones too as RGB
Path("samples.ppm").write_bytes(b"P6 %d %d 255\n" % row.shape[1::-1] + row.tobytes())
