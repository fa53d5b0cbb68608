"""Writes a random-weight Qwen3-VL checkpoint of a given text shape, as a hub download lies on disk. Weights are bf16, as published.

    python bench/peers/make_model.py '{"hidden":768,"intermediate":2048,"layers":10,"heads":12,"kv_heads":4,"head_dim":64,"vocab":32000}' OUT

With "tower": {"depth":6,"hidden":384,"intermediate":1536,"heads":6} the model has a vision tower of that shape.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

# A tokenizer with fewer tokens than the model has rows, as the published ones have.
TOKENIZER = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "qwen3vl-tiny"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "generation_config.json")


def main() -> None:
    shape, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    half = shape["head_dim"] // 2
    third = half // 3
    rope = dict(rope_type="default", rope_theta=5e6, mrope_section=[half - 2 * third, third, third], mrope_interleaved=True)
    # Without sight in the measurement, the smallest tower keeps it out of the memory too.
    tower = shape.get("tower", {"depth": 1, "hidden": 32, "intermediate": 64, "heads": 2})
    ids = json.loads((TOKENIZER / "config.json").read_text())
    config = Qwen3VLConfig(
        text_config=dict(
            hidden_size=shape["hidden"],
            intermediate_size=shape["intermediate"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            head_dim=shape["head_dim"],
            vocab_size=shape["vocab"],
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            rope_parameters=rope,
            tie_word_embeddings=True,
        ),
        vision_config=dict(
            depth=tower["depth"],
            hidden_size=tower["hidden"],
            intermediate_size=tower["intermediate"],
            num_heads=tower["heads"],
            out_hidden_size=shape["hidden"],
            deepstack_visual_indexes=[tower["depth"] // 2],
            num_position_embeddings=64,
        ),
        tie_word_embeddings=True,
        **{key: ids[key] for key in ids if key.endswith("_token_id")},
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(out)
    for name in FILES:
        shutil.copy(TOKENIZER / name, out)
    print(sum(p.numel() for p in model.parameters()))


main()
