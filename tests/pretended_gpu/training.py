"""Trains a model on a pretended GPU, in a process of its own, and prints what came of it as JSON.

Argument: JSON with the library of the device, how many devices there are, the rows, the place of
the run, the options of the training, and perhaps when memory runs out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # of this project's tests

from tests.pretended_gpu.device import install

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    install(asked["library"], num_devices=asked["num_devices"])

    import torch

    import bertfit
    from bertfit.modeling import packed_attention
    from bertfit.modeling.kernels import exchange
    from bertfit.modeling.plan import Plan
    from bertfit.training import pack_sizes, recorded_passes
    from bertfit.workflow import preparing
    from tests.modeling.kernels import on_device

    class Listener:
        """Keeps the notes; ends the process, or lets memory run out, when it is asked for."""

        def __init__(self):
            self.notes, self.most_tokens = [], None

        def note(self, text):
            self.notes.append(text)

        def progress(self, task, done, total, detail=""):
            if [task, done] == asked.get("killed_at"):
                os._exit(9)
            if [task, done] == asked.get("full_at"):
                self.most_tokens = asked["most_tokens"]

    listener = Listener()
    attend = packed_attention._attend_by_flash

    def attend_within_memory(states, *arguments, **named):
        if listener.most_tokens is not None and len(states[0]) > listener.most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return attend(states, *arguments, **named)

    packed_attention._attend_by_flash = attend_within_memory
    if asked["with_kernels"]:  # in float32: Triton's interpreter knows no bfloat16
        exchange._takes = lambda hidden, parts: hidden.is_contiguous()
        plan = Plan(is_on=True, reason="of a test")
        preparing.plan_operators_of = recorded_passes.plan_operators_of = lambda *_: plan
        pack_sizes.TOKENS_STEP = 16  # less padding
        on_device._interpret_faster()
    else:
        exchange.find_fault = lambda *_, **__: "not in this test"
    bertfit.train(asked["rows"], asked["run"], listener=listener, **asked["options"])
    told = {"notes": listener.notes, "num_replays": torch.cuda.CUDAGraph.num_replays}
    print(json.dumps(told))  # noqa: T201 (the test reads it)
