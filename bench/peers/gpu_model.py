"""Writes a random-weight Qwen3-VL checkpoint of true size with a real tokenizer, as a hub download lies on disk.

    python bench/peers/gpu_model.py qwen3-vl-2b OUT TOKENIZER_FOLDER
"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gpu_shapes import config
from transformers import Qwen3VLForConditionalGeneration

name, out, tokenizer = sys.argv[1:4]
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = Qwen3VLForConditionalGeneration(config(name))
model.save_pretrained(out, max_shard_size="4GB")
shutil.copy(os.path.join(tokenizer, "tokenizer.json"), out)
with open(os.path.join(tokenizer, "tokenizer_config.json")) as file:
    settings = json.load(file)
processor = dict(
    patch_size=16,
    temporal_patch_size=2,
    merge_size=2,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
    processor_class="Qwen3VLProcessor",
)
files = {
    "tokenizer_config.json": dict(settings, tokenizer_class="Qwen2Tokenizer", processor_class="Qwen3VLProcessor"),
    "preprocessor_config.json": dict(
        processor, size=dict(longest_edge=16777216, shortest_edge=65536), image_processor_type="Qwen2VLImageProcessorFast"
    ),
    "video_preprocessor_config.json": dict(
        processor, size=dict(longest_edge=25165824, shortest_edge=4096), video_processor_type="Qwen3VLVideoProcessor"
    ),
    "generation_config.json": dict(
        bos_token_id=151643, eos_token_id=[151645, 151643], pad_token_id=151643, do_sample=True, temperature=0.7, top_k=20, top_p=0.8
    ),
}
for file_name, content in files.items():
    with open(os.path.join(out, file_name), "w") as file:
        json.dump(content, file)
template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
with open(os.path.join(out, "chat_template.jinja"), "w") as file:
    file.write(template)
