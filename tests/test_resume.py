"""A run that is killed, starved of disk or given a damaged checkpoint ends as if nothing had happened, or says why not."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Tiny

KILLS = 20
LONG = (
    "compute.device=cpu",
    "pretrain.steps=60",
    "adapt.*.steps=30",
    "*.save_every=5",
)

# Children are forked from one server that has imported everything, so a life costs no import and no thread
# of this process is copied. This module itself imports nothing heavy, because each child imports it again.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["uda.cli", "uda.pipeline", "torch.utils.tensorboard", "pytest"])


def run_recipe(recipe: str, overrides: list[str], out: Path, until: str = "adapt") -> None:
    import torch

    from uda import pipeline
    from uda.recipes import load_recipe

    torch.set_num_threads(1)
    pipeline.run(load_recipe(recipe, overrides), out, until=until)
