"""sparseffn.torch: training recipes that make a llama-architecture model sparsely activated, export of what libsparseffn runs, and
replace_ffn(), which lets the library run the FFN layers of a PyTorch model.

    python -m sparseffn.torch train --model FOLDER_OR_GGUF --text corpus/*.txt --recipe prosparse --out runs/mine

Needs PyTorch 2.4 or later; reading and writing models needs ``safetensors``, GGUF files ``gguf``, text ``tokenizers``. Nothing of it is imported by
``import sparseffn``.

    ModelConfig, Llama      the model: RMSNorm, RoPE, grouped-query attention, gated FFN with an activation of choice
    load, save, save_gguf   Hugging Face folders and GGUF files in; Hugging Face folders and GGUF files out
    Tokens                  token ids of a text, in windows whose order depends on the seed and the step alone
    penalty                 ProSparse's L1 on h, and two penalties that cannot be escaped by scaling h down
    lte_losses, Router, ... Learn To be Efficient: experts, router, its losses
    Recipe, Trainer         the loop: bf16, torch.compile, checkpoints that resume exactly, a JSON log
    evaluate, ...           held-out perplexity with the density of each layer; thresholds for a quality budget
    replace_ffn, ...        the FFN modules of a model run by the library, on the CPU; what was replaced and what not; the way back
"""

from __future__ import annotations

try:
    import torch as _torch
except ImportError as e:
    raise ImportError("sparseffn.torch needs PyTorch 2.4 or later: pip install torch") from e

if tuple(int(n) for n in _torch.__version__.split(".")[:2]) < (2, 4):
    raise ImportError(f"sparseffn.torch needs PyTorch 2.4 or later, found {_torch.__version__}")

from .data import Tokens, tokenize
from .evaluate import evaluate, find_shift, magnitude_thresholds
from .files import load, save, save_gguf
from .losses import PENALTIES, lte_losses, penalty
from .lte import add_routers, apply_experts, balanced_groups, fit_routers, hard_routing
from .model import ACTIVATIONS, Llama, ModelConfig
from .replace import FFNRecord, FFNReport, ffn_report, replace_ffn, restore_ffn
from .trainer import Recipe, Trainer

__all__ = [
    "ACTIVATIONS",
    "FFNRecord",
    "FFNReport",
    "Llama",
    "ModelConfig",
    "PENALTIES",
    "Recipe",
    "Tokens",
    "Trainer",
    "add_routers",
    "apply_experts",
    "balanced_groups",
    "evaluate",
    "ffn_report",
    "find_shift",
    "fit_routers",
    "hard_routing",
    "load",
    "lte_losses",
    "magnitude_thresholds",
    "penalty",
    "replace_ffn",
    "restore_ffn",
    "save",
    "save_gguf",
    "tokenize",
]
