"""Machines that this one can be taken for."""

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""As on a CPU without AVX-512; whoever has no more anyway is not changed by them."""
