"""What the PyTorch workers share: the model's shape, a clock, the one line that the driver reads."""
import argparse
import json
import statistics
import time

import torch

LEAST_SECONDS = 0.4
MOST_CALLS = 2000


def parser(description):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--threads", type=int, required=True)
    return p


def parse(p):
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def seconds(call, repeats, prepare=lambda: None):
    """As bench/harness.rs: the median of at least `repeats` calls and 0.4 seconds, after one that is not counted.

    `prepare` goes before each call and is not timed.
    """
    prepare()
    call()
    times, begin = [], time.perf_counter()
    while len(times) < repeats or (time.perf_counter() - begin < LEAST_SECONDS and len(times) < MOST_CALLS):
        prepare()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def uniform(*shape):
    """Between -0.5 and 0.5, as the operands of pose-engine's benchmarks."""
    return torch.rand(shape) - 0.5


def report(figures):
    print(json.dumps(figures))
