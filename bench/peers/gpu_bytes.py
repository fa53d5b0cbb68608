"""bitsandbytes' CUDA kernels on numbers that gpu_bytes.ts wrote: NF4 quantisation, and 8-bit AdamW. Results go beside them.

    python bench/peers/gpu_bytes.py FOLDER
"""

import json
import sys
from pathlib import Path

import bitsandbytes as bnb
import torch

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def read(name, dtype, shape):
    data = bytearray((folder / name).read_bytes())
    return torch.frombuffer(data, dtype=dtype).reshape(shape).cuda()


def write(name, tensor):
    (folder / name).write_bytes(tensor.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())


for case in manifest["nf4"]:
    name = case["name"]
    x = read(f"{name}.x", DTYPES[case["dtype"]], case["shape"])
    codes, state = bnb.functional.quantize_4bit(x, blocksize=64, compress_statistics=False, quant_type="nf4")
    write(f"{name}.codes", codes)
    write(f"{name}.absmax", state.absmax)
    codes, state = bnb.functional.quantize_4bit(x, blocksize=64, compress_statistics=True, quant_type="nf4")
    write(f"{name}.absmax_u8", state.absmax)
    write(f"{name}.nested_absmax", state.state2.absmax)
    write(f"{name}.offset", state.offset.reshape(1))
    write(f"{name}.y", bnb.functional.dequantize_4bit(codes, state))

adamw = manifest["adamw"]
parameters = [
    torch.nn.Parameter(read(f"adamw.{i}.p", torch.float32, [numel])) for i, numel in enumerate(adamw["numels"])
]
optimizer = bnb.optim.AdamW8bit(
    parameters, lr=adamw["lr"], betas=tuple(adamw["betas"]), eps=adamw["eps"], weight_decay=adamw["weight_decay"]
)
for step in range(adamw["steps"]):
    for i, parameter in enumerate(parameters):
        parameter.grad = read(f"adamw.{i}.g.{step}", torch.float32, [parameter.numel()])
    optimizer.step()
for i, parameter in enumerate(parameters):
    state = optimizer.state[parameter]
    write(f"adamw.{i}.p.after", parameter)
    for key in ("state1", "state2", "absmax1", "absmax2"):
        if key in state and state[key] is not None:
            write(f"adamw.{i}.{key}", state[key])
print(json.dumps({"bitsandbytes": bnb.__version__, "torch": torch.__version__, "gpu": torch.cuda.get_device_name()}))
