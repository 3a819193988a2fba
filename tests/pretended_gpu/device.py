"""Gives this process CUDA devices that are not there: see device.cpp.

What torch knows of CUDA in Python, too, has a stand-in: streams and events are in order by
themselves, a graph runs its operations again, and Triton's interpreter runs kernels. So what is
tested is which tensors are where, what is recorded and replayed, and the numbers; neither races nor
speed are.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import subprocess
import sys
import time
from types import SimpleNamespace

NAME = "pretended_device"
FLAGS = ("-O0", "-std=c++20")
_STAYING = contextlib.ExitStack()
"""Libraries of operators, which are there as long as their objects."""


def build(folder):
    """Build the device into a folder, in half a minute, and return the library.

    The process that builds it loads it, too, and so has to be another one.
    """
    subprocess.run([sys.executable, __file__, str(folder)], check=True, capture_output=True)
    return folder / f"{NAME}.so"


def _build(folder):
    from torch.utils.cpp_extension import TORCH_LIB_PATH, load

    load(
        NAME,
        [__file__.replace(".py", ".cpp")],
        extra_cflags=list(FLAGS),
        extra_ldflags=[f"-Wl,-rpath,{TORCH_LIB_PATH}"],  # the library is loaded before torch
        build_directory=folder,
    )


def install(library, *, num_devices):
    """Load the device, and replace what torch has for CUDA in Python; once for a process.

    Must come before torch is imported, which looks for CUDA then.
    """
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(library))
    device = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader))
    loader.exec_module(device)
    device.set_num_devices(num_devices)
    _replace_devices(device, num_devices)
    _replace_streams(device, num_devices)
    _replace_graphs(device)
    _replace_tensors()
    _give_attention()
    _give_products_of_two_types()
    _record_kernels(device)


def _index_of(device, given):
    import torch

    index = given if given is None or isinstance(given, int) else torch.device(given).index
    return device.get_device() if index is None else index


def _replace_devices(device, num_devices):
    import torch

    class Chosen(contextlib.AbstractContextManager):
        def __init__(self, given):
            self.index = _index_of(device, given)

        def __enter__(self):
            self.before = device.get_device()
            device.set_device(self.index)

        def __exit__(self, *_):
            device.set_device(self.before)

    def refuse_while_recording(*_):
        if device.is_recording():
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    about = SimpleNamespace(name="none", total_memory=80 * 2**30, multi_processor_count=132)
    stand_ins = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: num_devices,
        "current_device": device.get_device,
        "set_device": lambda given: device.set_device(_index_of(device, given)),
        "device": Chosen,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: about.name,
        "get_device_properties": lambda *_: about,
        "get_arch_list": lambda: ["sm_90"],
        "is_bf16_supported": lambda **_: True,
        "mem_get_info": lambda *_: (70 * 2**30, about.total_memory),
        "empty_cache": refuse_while_recording,
        "synchronize": refuse_while_recording,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "manual_seed_all": lambda _seed: None,
    }
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)
    torch.version.cuda = "none"
    # Graphs are replayed by views of memory, which inference tensors do not allow.
    torch.inference_mode = _without_gradients


def _without_gradients(mode=True):
    import torch

    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else torch.set_grad_enabled(torch.is_grad_enabled())


def _replace_streams(device, num_devices):
    import torch

    class Stream:
        def __init__(self, given=None, priority=0):
            self.device = torch.device("cuda", _index_of(device, given))

        def wait_stream(self, other):
            assert isinstance(other, Stream)

    class Event:
        def __init__(self, enable_timing=False):
            self.moment = None

        def record(self, stream):
            assert isinstance(stream, Stream)
            self.moment = time.perf_counter()

        def synchronize(self):
            assert self.moment is not None
            torch.cuda.synchronize()

        def elapsed_time(self, later):
            return 1000 * (later.moment - self.moment)

    current = {index: [Stream(index)] for index in range(num_devices)}

    @contextlib.contextmanager
    def use(stream):
        waiting = current[stream.device.index]
        with torch.cuda.device(stream.device):
            waiting.append(stream)
            try:
                yield
            finally:
                waiting.pop()

    torch.cuda.Stream, torch.cuda.Event, torch.cuda.stream = Stream, Event, use
    torch.cuda.current_stream = lambda given=None: current[_index_of(device, given)][-1]


def _replace_graphs(device):
    import torch

    class Graph:
        num_replays = 0

        def __init__(self, keep_graph=False):
            self.kept = None

        def capture_begin(self, pool=None, capture_error_mode="global"):
            device.begin_recording()

        def capture_end(self):
            self.kept = device.end_recording()

        def instantiate(self):
            assert self.kept is not None

        def replay(self):
            Graph.num_replays += 1
            self.kept.replay()

    torch.cuda.CUDAGraph, torch.cuda.graph_pool_handle = Graph, lambda: (0, 0)


def _replace_tensors():
    import torch

    plain = {kind: kind.__deepcopy__ for kind in (torch.Tensor, torch.nn.Parameter)}

    def copy(self, memo):  # torch makes a storage of bytes for it, and knows no such device
        if not self.is_cuda:
            return plain[type(self)](self, memo)
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = (
                torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
            )
        return memo[id(self)]

    for kind in plain:
        kind.__deepcopy__ = copy
    torch.Tensor.pin_memory = lambda self: self


def _give_attention():
    """Give torch's flash attention the kernels of its stand-in, which take float32 as well."""
    import torch

    from bertfit.modeling import packed_attention
    from tests.modeling.flash_on_cpu import flash_on_cpu

    _STAYING.enter_context(flash_on_cpu())
    torch.backends.cuda.is_flash_attention_available = lambda: True
    packed_attention._HALF = (*packed_attention._HALF, torch.float32)


def _give_products_of_two_types():
    """Give torch's products of bfloat16 into float32, which a CPU has not."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    for name in ("mm", "bmm"):

        def multiply(left, right, dtype, *, name=name):
            return getattr(torch, name)(left.float(), right.float()).to(dtype)

        def multiply_into(left, right, dtype, *, out, multiply=multiply):
            return out.copy_(multiply(left, right, dtype))

        library.impl(f"{name}.dtype", multiply, "CUDA")
        library.impl(f"{name}.dtype_out", multiply_into, "CUDA")
    _STAYING.callback(library._destroy)


def _record_kernels(device):
    import torch
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def launch_and_record(self, *arguments, **named):
        values = (*arguments, *named.values())
        tensors = [one for one in values if isinstance(one, torch.Tensor)]
        places = {one.device for one in tensors}
        current = torch.device("cuda", device.get_device())
        assert places <= {current}, f"a kernel was launched on {current} for tensors on {places}"
        device.run_and_record(lambda: launch(self, *arguments, **named), tensors)

    interpreter.GridExecutor.__call__ = launch_and_record


if __name__ == "__main__":
    _build(sys.argv[1])
