"""Times transformers' image processor (torchvision) on request, for bench/media.ts: one JSON object a line in, one out.

    {"case": {"files": [...], "decode": true, "config": {...}}}   prepares a case: one call takes all files, decoded anew or beforehand
    {"calls": 8}                                                  runs the case so often; answers {"seconds": of all calls together}
"""

import json
import sys
import time

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            case = request["case"]
            processor = Qwen2VLImageProcessor(**case["config"])

            def load():
                return [Image.open(file).convert("RGB") for file in case["files"]]

            loaded = load()
            run = lambda: processor(images=load() if case["decode"] else loaded, return_tensors="pt")
            run()
            answer = {"ready": True}
        else:
            start = time.perf_counter()
            for _ in range(request["calls"]):
                run()
            answer = {"seconds": time.perf_counter() - start}
        print(json.dumps(answer), flush=True)


main()
