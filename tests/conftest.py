"""What every test relies on. JAX reads its settings when it is first imported, so they are made here, before any test is collected."""

import os
from pathlib import Path

import hypothesis

SIMULATED_DEVICES = 8

# The last flag of a name wins, so this one goes behind whatever the user has set.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={SIMULATED_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests marked `gpu` run with JAX_PLATFORMS=cuda
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # a [B] that meets a [B, T] by accident is an error
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# The same examples in every run; no deadline, because the first example of a test compiles its program.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")
