"""The command line."""
import argparse
import os
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path

from . import machine, words
from .engine import Engine
from .record import NUMBERS, Record, machine_text
from .setting import PEERS, REAL, REPOSITORY, SMOKE, Setting
from .table import work_table
from .work import Failure, run_rounds
from .works import all_works

# Each target length needs a document of as many tokens, here bytes.
TEXT_BYTES = 1 << 20


def parse(arguments):
    p = argparse.ArgumentParser(prog="bench/peers/run", description="pose-engine and its peers at the same work, in turns.")
    p.add_argument("--only", type=lambda names: names.split(","), help="names of the pieces of work, with commas: see --list")
    p.add_argument("--list", action="store_true", help="print the pieces of work and do none")
    p.add_argument("--rounds", type=int, default=3, help="how often each contender does each work [default: 3]")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[default: all cores]")
    model = "SmolLM2-135M, a Hugging Face directory [default: what setup made]"
    p.add_argument("--model", type=Path, default=PEERS / "model", help=model)
    p.add_argument("--gguf", type=Path, nargs="+", help="the same model for llama.cpp [default: what setup made]")
    p.add_argument("--text", type=Path, help="a .txt file to read and train on, 1 MB or more [default: random words]")
    p.add_argument("--name", default="peers", help="for the run's folder, bench/runs/DATE-NAME")
    p.add_argument("--out", type=Path, help="another folder for the run")
    p.add_argument("--smoke", action="store_true", help="tiny sizes: whether everything works, not how fast")
    args = p.parse_args(arguments)
    if args.rounds < 1 or args.threads < 1:
        p.error("--rounds and --threads must be at least 1")
    return args


def setting_of(args, scratch):
    text = args.text.resolve() if args.text else scratch / "words.txt"
    if not args.text:
        words.make(text, TEXT_BYTES)
    gguf = args.gguf or [PEERS / f"model/SmolLM2-135M-Instruct.{weights}.gguf" for weights in ["Q4_1", "BF16"]]
    sizes = SMOKE if args.smoke else REAL
    return Setting(sizes, args.threads, args.model.resolve(), [path.resolve() for path in gguf], text, scratch)


def chosen(works, only):
    names = [work.name for work in works]
    unknown = [name for name in only or [] if name not in names]
    if unknown:
        raise Failure(f"--only {','.join(unknown)}: there is {', '.join(names)}")
    return [work for work in works if not only or work.name in only]


def say(sentence):
    print(sentence, file=sys.stderr, flush=True)


def run(args, arguments, scratch):
    setting = setting_of(args, scratch)
    engine = Engine(setting)
    works = chosen(all_works(engine, setting), args.only)
    if args.list:
        for work in works:
            print(f"{work.name:12} {work.title}: {', '.join(contender.name for contender in work.contenders)}")
        return
    directory = args.out or REPOSITORY / "bench/runs" / f"{date.today()}-{args.name}"
    if (directory / NUMBERS).exists():
        raise Failure(f"{directory / NUMBERS} is there already; choose another --name or --out")
    engine.build()
    record = Record(directory, machine.describe(setting, arguments))
    print(machine_text(record.machine), flush=True)
    for work in works:
        outcomes = run_rounds(work, args.rounds, say)
        table = work_table(work, outcomes)
        print(f"\n{table}", flush=True)
        record.add(work, outcomes, table)
    say(f"the numbers of every round are in {directory / NUMBERS}")


def main():
    arguments = sys.argv[1:]
    args = parse(arguments)
    # as by Ctrl-C, so that a worker does not outlive the driver
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as scratch:
            run(args, arguments, Path(scratch))
    except Failure as failure:
        say(f"bench/peers/run: {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
