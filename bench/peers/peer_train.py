"""Updates of a LoRA on a Qwen3-VL checkpoint by transformers and PEFT on the CPU, in F32: rows of random ids, every token a target.

    python bench/peers/peer_train.py MODEL --threads 2 --tokens 512 --steps 6 [--picture SIDE [--tower]]

With --picture each row begins with a picture of SIDE x SIDE pixels, which comes ready as patches and is no target; with --tower the
tower is trained too.

Prints one JSON object a line: {"seconds": of an update} for each, then {"peak_memory_bytes": of this process}.
"""

import argparse
import json
import os
import resource
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
TOWER = r".*visual\..*\.(qkv|proj|linear_fc1|linear_fc2)"


def picture(config, side: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The tokens that stand for a picture, and its patches."""
    tower = config.vision_config
    across = side // tower.patch_size
    patch = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    count = (across // tower.spatial_merge_size) ** 2
    ids = torch.tensor([config.vision_start_token_id, *[config.image_token_id] * count, config.vision_end_token_id])
    return ids, dict(pixel_values=torch.rand(across**2, patch) * 2 - 1, image_grid_thw=torch.tensor([[1, across, across]]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--picture", type=int)
    parser.add_argument("--tower", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    targets = f"{TARGETS}|{TOWER}" if args.tower else TARGETS
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, bias="none", target_modules=targets))
    model.config.use_cache = False
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.01)
    for _ in range(args.steps):
        ids = torch.randint(0, 400, (1, args.tokens))
        labels = ids.clone()
        seen = {}
        if args.picture:
            tokens, seen = picture(model.config, args.picture)
            ids[0, : len(tokens)] = tokens
            labels[0, : len(tokens)] = -100
            seen["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **seen).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    print(json.dumps({"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


main()
