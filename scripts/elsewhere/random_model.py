#!/usr/bin/env python3
"""A model with random weights and the vocabulary of bytes, in the shape of a config.json, as transformers makes and saves it.

    random_model.py CONFIG_JSON OUT_DIR [LENGTH]

LENGTH is its max_position_embeddings, where that is to be another than the config's.
"""
import pathlib
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def main():
    config = AutoConfig.from_pretrained(pathlib.Path(sys.argv[1]).parent)
    config.vocab_size, config.bos_token_id, config.eos_token_id = 264, 256, 257
    if len(sys.argv) > 3:
        config.max_position_embeddings = int(sys.argv[3])
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(sys.argv[2])


if __name__ == "__main__":
    main()
