#!/usr/bin/env python3
"""Widens the weights of a GGUF file to bf16, for a llama.cpp that computes in what the others compute in.

    .venv-llamacpp/bin/python make_bf16_gguf.py IN.gguf OUT.gguf
"""
import sys

import llama_cpp


def main(source, target):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) != 0:
        sys.exit(f"{source} could not be written as {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
