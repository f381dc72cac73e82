#!/usr/bin/env python3
"""Fuzzes the control protocol by coverage: `make fuzz`. Arguments are those of libFuzzer."""

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit"))

with atheris.instrument_imports(include=["mcr.control", "mcr.model", "mcr.errors"]):
    from control_target import take

atheris.Setup(sys.argv, take)
atheris.Fuzz()
