"""The C ABI of libsparseffn as ctypes: structs, callbacks, function prototypes.

Mirrors ``include/sparseffn/*.h`` field by field and imports nothing but ctypes, so that it can be read without the
library. ``tests/python/test_abi.py`` compiles a C program against the headers and compares every size, offset,
default, enum value and prototype with this file. The words are the headers'; look there for the contracts.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, ClassVar

_Bytes = bytes  # one struct has a field of that name

#: SFFN_ABI_VERSION of the headers that this file mirrors.
ABI_VERSION = 0

# Callbacks. Pool threads may call them; ctypes takes the GIL first.
log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
alloc_fn = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)
free_fn = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)
parallel_for_fn = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p, c_void_p)
barrier_fn = CFUNCTYPE(None, c_void_p)
predictor_callback = CFUNCTYPE(None, c_void_p, c_void_p, c_uint32, c_void_p, c_uint32)
progress_fn = CFUNCTYPE(c_int32, c_void_p, c_char_p, c_uint64, c_uint64)


class Sized(Structure):
    """A struct that begins with ``struct_size``; a new one equals the header's ``_INIT`` macro."""

    _defaults_: ClassVar[dict[str, Any]] = {}
    struct_size: int

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{**self._defaults_, **fields})
        self.struct_size = ctypes.sizeof(self)


# status.h, dtype.h: enums are int32_t at every boundary.


class sffn_allocator(Structure):
    _fields_ = [("user", c_void_p), ("alloc", alloc_fn), ("free", free_fn)]


class sffn_context_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("allocator", sffn_allocator),
        ("log", log_fn),
        ("log_user", c_void_p),
        ("n_threads", c_uint32),
        ("parallel_for", parallel_for_fn),
        ("parallel_for_user", c_void_p),
        ("max_isa", c_char_p),
        ("huge_pages", c_int32),
        ("bind_threads", c_int32),
        ("spin_us", c_uint32),
        ("collect_stats", c_int32),
        ("use_onednn", c_int32),
        ("stats_recall_every", c_uint32),
    ]
    _defaults_ = {"n_threads": 1, "spin_us": 50}
    log: Any


class sffn_context_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("isa", c_char_p),
        ("cpu_features", c_char_p),
        ("n_threads", c_uint32),
        ("n_cpus", c_uint32),
        ("n_cores", c_uint32),
        ("n_numa_nodes", c_uint32),
        ("l1d_bytes", c_uint64),
        ("l2_bytes", c_uint64),
        ("llc_bytes", c_uint64),
        ("page_bytes", c_uint64),
        ("huge_page_bytes", c_uint64),
        ("weight_bytes", c_uint64),
        ("weight_huge_bytes", c_uint64),
        ("scratch_bytes", c_uint64),
        ("has_hwloc", c_int32),
        ("has_onednn", c_int32),
    ]


class sffn_active_set_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_blocks", c_uint32),
        ("block_size", c_uint32),
        ("max_tokens", c_uint32),
        ("has_weights", c_int32),
    ]
    _defaults_ = {"block_size": 1, "max_tokens": 1}


class sffn_value_rule(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("tie", c_int32),
        ("threshold", c_float),
        ("thresholds", c_void_p),
        ("k", c_uint32),
        ("m", c_uint32),
        ("sparsity", c_float),
    ]


class sffn_weights(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int32), ("layout", c_int32), ("row_bytes", c_size_t)]
    data: int | None
    dtype: int
    layout: int
    row_bytes: int


class sffn_matmul_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_rows", c_uint32),
        ("n_cols", c_uint32),
        ("weights", sffn_weights),
        ("storage", c_int32),
        ("dtype", c_int32),
        ("block_size", c_uint32),
    ]
    _defaults_ = {"dtype": -1, "block_size": 1}


class sffn_matmul_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_rows", c_uint32),
        ("n_cols", c_uint32),
        ("block_size", c_uint32),
        ("dtype", c_int32),
        ("storage", c_int32),
        ("weight_bytes", c_uint64),
        ("row_bytes", c_uint64),
    ]


class sffn_predictor_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("gate", sffn_weights),
        ("gate_bias", c_void_p),
        ("decision", c_int32),
        ("tie", c_int32),
        ("threshold", c_float),
        ("thresholds", c_void_p),
        ("margin", c_float),
        ("top_k", c_uint32),
        ("top_k_multiple", c_uint32),
        ("n_layers", c_uint32),
        ("rank", c_uint32),
        ("w1", sffn_weights),
        ("w2", sffn_weights),
        ("b1", c_void_p),
        ("b2", c_void_p),
        ("hidden_activation", c_int32),
        ("dtype", c_int32),
        ("callback", predictor_callback),
        ("callback_user", c_void_p),
        ("input", c_int32),
        ("alpha", c_float),
        ("bits", c_uint32),
        ("step_bits", c_uint32),
        ("input_mean", c_void_p),
        ("column_share", c_float),
    ]
    _defaults_ = {"margin": 1.5, "top_k_multiple": 1, "n_layers": 1, "dtype": -1, "alpha": 1.03, "bits": 3, "step_bits": 2}


class sffn_predictor_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("n_layers", c_uint32),
        ("rank", c_uint32),
        ("dtype", c_int32),
        ("hidden_activation", c_int32),
        ("decision", c_int32),
        ("tie", c_int32),
        ("threshold", c_float),
        ("has_thresholds", c_int32),
        ("top_k", c_uint32),
        ("margin", c_float),
        ("input", c_int32),
        ("weight_bytes", c_uint64),
        ("alpha", c_float),
        ("bits", c_uint32),
        ("step_bits", c_uint32),
        ("column_share", c_float),
    ]


class sffn_router_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d_model", c_uint32),
        ("n_experts", c_uint32),
        ("block_size", c_uint32),
        ("rule", c_int32),
        ("threshold", c_float),
        ("weights", sffn_weights),
        ("bias", c_void_p),
        ("top_k", c_uint32),
        ("mass", c_float),
        ("n_hidden", c_uint32),
        ("hidden_weights", sffn_weights),
        ("hidden_bias", c_void_p),
        ("normalize_input", c_int32),
        ("weighting", c_int32),
        ("input", c_int32),
    ]
    _defaults_ = {"block_size": 32, "threshold": 0.5, "mass": 0.9}
    d_model: int
    n_experts: int
    block_size: int


class sffn_router_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d_model", c_uint32),
        ("n_experts", c_uint32),
        ("block_size", c_uint32),
        ("n_hidden", c_uint32),
        ("dtype", c_int32),
        ("rule", c_int32),
        ("threshold", c_float),
        ("top_k", c_uint32),
        ("mass", c_float),
        ("weighting", c_int32),
        ("normalize_input", c_int32),
        ("input", c_int32),
        ("weight_bytes", c_uint64),
    ]


class sffn_ffn_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("gate", sffn_weights),
        ("up", sffn_weights),
        ("down", sffn_weights),
        ("gate_bias", c_void_p),
        ("up_bias", c_void_p),
        ("down_bias", c_void_p),
        ("activation", c_int32),
        ("act_tie", c_int32),
        ("act_threshold", c_float),
        ("rule", c_int32),
        ("rule_tie", c_int32),
        ("rule_threshold", c_float),
        ("rule_thresholds", c_void_p),
        ("rule_k", c_uint32),
        ("rule_m", c_uint32),
        ("rule_sparsity", c_float),
        ("storage", c_int32),
        ("dtype", c_int32),
        ("block_size", c_uint32),
        ("predictor", c_void_p),
        ("router", c_void_p),
        ("max_density", c_float),
        ("dense_tokens", c_uint32),
        ("name", c_char_p),
        ("select", c_int32),
    ]
    _defaults_ = {"act_tie": 1, "dtype": -1, "block_size": 1, "max_density": 1.0, "dense_tokens": 0xFFFFFFFF}
    d_model: int
    d_ff: int
    gate: sffn_weights
    up: sffn_weights
    down: sffn_weights
    gate_bias: int | None
    up_bias: int | None
    down_bias: int | None
    activation: int
    act_tie: int
    act_threshold: float
    rule: int
    rule_tie: int
    rule_threshold: float
    rule_thresholds: int | None
    rule_k: int
    rule_m: int
    rule_sparsity: float
    block_size: int
    name: bytes | None


class sffn_ffn_stats(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("path", c_int32),
        ("n_tokens", c_uint64),
        ("n_selected", c_uint64),
        ("n_active", c_uint64),
        ("n_nonzero", c_uint64),
        ("union_active", c_uint64),
        ("touched_bytes", c_uint64),
        ("select_ns", c_uint64),
        ("gate_ns", c_uint64),
        ("up_ns", c_uint64),
        ("down_ns", c_uint64),
        ("total_ns", c_uint64),
        ("n_widened", c_uint64),
        ("select", c_int32),
        ("dense_reason", c_int32),
    ]


class sffn_ffn_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("x", c_void_p),
        ("x_stride", c_size_t),
        ("y", c_void_p),
        ("y_stride", c_size_t),
        ("n_tokens", c_size_t),
        ("select_x", c_void_p),
        ("select_x_stride", c_size_t),
        ("select", c_int32),
        ("active", c_void_p),
        ("h", c_void_p),
        ("h_stride", c_size_t),
        ("active_out", c_void_p),
        ("stats", c_void_p),  # sffn_ffn_stats
    ]
    x: int | None
    x_stride: int
    y: int | None
    y_stride: int
    n_tokens: int
    select_x: int | None
    select_x_stride: int
    select: int
    active: int | None
    h: int | None
    h_stride: int
    active_out: int | None
    stats: int | None


class sffn_ffn_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("is_gated", c_int32),
        ("activation", c_int32),
        ("rule", c_int32),
        ("has_predictor", c_int32),
        ("has_router", c_int32),
        ("gate_dtype", c_int32),
        ("up_dtype", c_int32),
        ("down_dtype", c_int32),
        ("act_threshold", c_float),
        ("weight_bytes", c_uint64),
        ("selector_bytes", c_uint64),
        ("select_input", c_int32),
        ("select", c_int32),
        ("dense_reason", c_int32),
        ("dense_tokens", c_uint32),
        ("max_density", c_float),
    ]


class sffn_calibration_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("ffn", c_void_p),
        ("max_samples", c_uint32),
        ("eval_samples", c_uint32),
        ("select_d_model", c_uint32),
        ("keep_second_moment", c_int32),
        ("seed", c_uint64),
    ]
    _defaults_ = {"max_samples": 4096, "eval_samples": 512}


class sffn_calibration_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("select_d_model", c_uint32),
        ("n_samples", c_uint32),
        ("n_eval", c_uint32),
        ("n_tokens", c_uint64),
        ("bytes", c_uint64),
    ]


class sffn_activity(Structure):
    _fields_ = [
        ("kind", c_int32),
        ("tie", c_int32),
        ("threshold", c_float),
        ("thresholds", c_void_p),
    ]


class sffn_measured(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_tokens", c_uint64),
        ("density", c_double),
        ("cett", c_double),
        ("max_cett", c_double),
        ("relative_error", c_double),
    ]


class sffn_threshold_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("target_cett", c_float),
        ("target_density", c_float),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
    ]
    _defaults_ = {"kind": 2, "target_cett": -1.0, "target_density": -1.0}
    progress: Any


class sffn_cluster_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weights", sffn_weights),
        ("n_rows", c_uint32),
        ("n_cols", c_uint32),
        ("group_size", c_uint32),
        ("normalize", c_int32),
        ("max_rounds", c_uint32),
        ("seed", c_uint64),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
    ]
    _defaults_ = {"group_size": 32, "normalize": 1, "max_rounds": 30}
    progress: Any


class sffn_svd_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weights", sffn_weights),
        ("n_rows", c_uint32),
        ("n_cols", c_uint32),
        ("rank", c_uint32),
        ("second_moment", c_void_p),
        ("seed", c_uint64),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
    ]
    progress: Any


class sffn_selector_report(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_tokens", c_uint64),
        ("true_density", c_double),
        ("density", c_double),
        ("recall", c_double),
        ("precision", c_double),
        ("cett", c_double),
        ("max_cett", c_double),
        ("relative_error", c_double),
    ]


class sffn_fit_result(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_train", c_uint64),
        ("n_held_out", c_uint64),
        ("n_epochs", c_uint32),
        ("label_density", c_double),
        ("density", c_double),
        ("start_recall", c_double),
        ("recall", c_double),
        ("loss", c_double),
        ("threshold", c_float),
    ]


class sffn_low_rank_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rank", c_uint32),
        ("hidden_activation", c_int32),
        ("has_bias", c_int32),
        ("activity", sffn_activity),
        ("start", c_int32),
        ("batch_size", c_uint32),
        ("max_epochs", c_uint32),
        ("patience", c_uint32),
        ("learning_rate", c_float),
        ("weight_decay", c_float),
        ("density", c_float),
        ("stop_recall", c_float),
        ("seed", c_uint64),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
    ]
    _defaults_ = {
        "batch_size": 256,
        "max_epochs": 20,
        "patience": 5,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "stop_recall": 0.999,
    }
    progress: Any


class sffn_router_fit_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("block_size", c_uint32),
        ("permutation", c_void_p),
        ("score", c_int32),
        ("is_mlp", c_int32),
        ("normalize_input", c_int32),
        ("start", c_int32),
        ("batch_size", c_uint32),
        ("max_epochs", c_uint32),
        ("patience", c_uint32),
        ("learning_rate", c_float),
        ("weight_decay", c_float),
        ("density", c_float),
        ("stop_recall", c_float),
        ("seed", c_uint64),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
    ]
    _defaults_ = {
        "block_size": 32,
        "batch_size": 256,
        "max_epochs": 30,
        "patience": 5,
        "learning_rate": 0.01,
        "density": 0.2,
        "stop_recall": 0.999,
    }
    progress: Any


class sffn_layer_stats(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("calls_sparse", c_uint64),
        ("calls_dense", c_uint64),
        ("calls_onednn", c_uint64),
        ("n_tokens", c_uint64),
        ("n_selected", c_uint64),
        ("n_active", c_uint64),
        ("n_nonzero", c_uint64),
        ("touched_bytes", c_uint64),
        ("select_ns", c_uint64),
        ("gate_ns", c_uint64),
        ("up_ns", c_uint64),
        ("down_ns", c_uint64),
        ("check_ns", c_uint64),
        ("total_ns", c_uint64),
        ("sampled_tokens", c_uint64),
        ("sampled_true", c_uint64),
        ("sampled_selected", c_uint64),
        ("sampled_hits", c_uint64),
        ("recall", c_double),
        ("precision", c_double),
        ("dense_asked", c_uint64),
        ("dense_plan", c_uint64),
        ("dense_no_zeros", c_uint64),
        ("dense_many_tokens", c_uint64),
        ("n_widened", c_uint64),
    ]
    _defaults_ = {"recall": 1.0, "precision": 1.0}


class sffn_model_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("format", c_int32),
        ("architecture", c_char_p),
        ("name", c_char_p),
        ("n_layers", c_uint32),
        ("d_model", c_uint32),
        ("d_ff", c_uint32),
        ("n_heads", c_uint32),
        ("n_kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("n_vocab", c_uint32),
        ("n_context", c_uint32),
        ("rms_norm_eps", c_float),
        ("rope_theta", c_float),
        ("activation", c_int32),
        ("act_threshold", c_float),
        ("act_tie", c_int32),
        ("is_tied", c_int32),
        ("rope_is_permuted", c_int32),
        ("n_tensors", c_size_t),
        ("file_bytes", c_uint64),
        ("n_meta", c_size_t),
    ]
    _defaults_ = {"activation": -1, "act_tie": 1}


class sffn_tensor_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("file_name", c_char_p),
        ("type_name", c_char_p),
        ("dtype", c_int32),
        ("n_dims", c_uint32),
        ("dims", c_uint64 * 4),
        ("data", c_void_p),
        ("bytes", c_uint64),
    ]
    _defaults_ = {"dtype": -1}
    name: _Bytes
    file_name: _Bytes
    type_name: _Bytes
    dtype: int
    n_dims: int
    dims: Any
    data: int | None
    bytes: int


class sffn_prepare_layer(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("plan", c_int32),
        ("rule", c_int32),
        ("rule_tie", c_int32),
        ("rule_threshold", c_float),
        ("rule_thresholds", c_void_p),
        ("rule_k", c_uint32),
        ("rule_m", c_uint32),
        ("rule_sparsity", c_float),
        ("predictor", c_void_p),  # sffn_predictor_config
        ("router", c_void_p),  # sffn_router_config
        ("permutation", c_void_p),
    ]


class sffn_prepare_config(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("dtype", c_int32),
        ("keep_embeddings", c_int32),
        ("act_threshold", c_float),
        ("progress", progress_fn),
        ("progress_user", c_void_p),
        ("layers", c_void_p),  # sffn_prepare_layer
        ("n_layers", c_uint32),
        ("command", c_char_p),
        ("notes", c_char_p),
    ]
    _defaults_ = {"dtype": -1, "keep_embeddings": 1, "act_threshold": -1.0}
    progress: Any


class sffn_prosparse_stage(Structure):
    _fields_ = [("end_step", c_uint64), ("lambda", c_double)]


# Prototypes: name -> (result, arguments). Opaque handles and arrays are c_void_p (the caller passes addresses),
# results of *_create are POINTER(c_void_p), structs are POINTER(struct).
_status = c_int
_handle = c_void_p
_array = c_void_p
_out = POINTER(c_void_p)

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    # version.h, status.h
    "sffn_version": (c_uint32, []),
    "sffn_version_string": (c_char_p, []),
    "sffn_abi_version": (c_uint32, []),
    "sffn_status_name": (c_char_p, [c_int]),
    # dtype.h
    "sffn_dtype_name": (c_char_p, [c_int32]),
    "sffn_dtype_from_name": (c_int32, [c_char_p]),
    "sffn_dtype_block_size": (c_size_t, [c_int32]),
    "sffn_dtype_row_bytes": (c_size_t, [c_int32, c_size_t]),
    "sffn_dtype_from_f32": (_status, [c_int32, _array, c_size_t, _array]),
    "sffn_dtype_to_f32": (_status, [c_int32, _array, c_size_t, _array]),
    # context.h
    "sffn_context_create": (_status, [POINTER(sffn_context_config), _out]),
    "sffn_context_destroy": (None, [_handle]),
    "sffn_context_last_error": (c_char_p, [_handle]),
    "sffn_context_get_info": (_status, [_handle, POINTER(sffn_context_info)]),
    "sffn_context_n_kernels": (c_size_t, [_handle]),
    "sffn_context_kernel_name": (c_char_p, [_handle, c_size_t]),
    "sffn_isa_name": (c_char_p, [c_size_t]),
    "sffn_isa_is_supported": (c_int32, [c_size_t]),
    # active_set.h
    "sffn_active_set_create": (_status, [_handle, POINTER(sffn_active_set_config), _out]),
    "sffn_active_set_destroy": (None, [_handle]),
    "sffn_active_set_clear": (_status, [_handle, c_size_t]),
    "sffn_active_set_set_indices": (_status, [_handle, c_size_t, _array, c_size_t]),
    "sffn_active_set_set_bitmap": (_status, [_handle, c_size_t, _array]),
    "sffn_active_set_set_mask": (_status, [_handle, c_size_t, _array]),
    "sffn_active_set_set_all": (_status, [_handle, c_size_t]),
    "sffn_active_set_set_values": (_status, [_handle, c_size_t, _array, c_size_t, POINTER(sffn_value_rule)]),
    "sffn_active_set_set_slice": (_status, [_handle, _handle, c_uint32]),
    "sffn_normal_quantile": (c_double, [c_double]),
    "sffn_active_set_set_weights": (_status, [_handle, c_size_t, _array]),
    "sffn_active_set_weights": (_array, [_handle, c_size_t]),
    "sffn_active_set_has_weights": (c_int32, [_handle]),
    "sffn_active_set_n_blocks": (c_uint32, [_handle]),
    "sffn_active_set_block_size": (c_uint32, [_handle]),
    "sffn_active_set_max_tokens": (c_uint32, [_handle]),
    "sffn_active_set_n_tokens": (c_size_t, [_handle]),
    "sffn_active_set_count": (c_size_t, [_handle, c_size_t]),
    "sffn_active_set_indices": (_array, [_handle, c_size_t]),
    "sffn_active_set_contains": (c_int32, [_handle, c_size_t, c_uint32]),
    "sffn_active_set_get_bitmap": (_status, [_handle, c_size_t, _array]),
    "sffn_active_set_union_count": (c_size_t, [_handle]),
    "sffn_active_set_density": (c_double, [_handle]),
    "sffn_active_set_recall": (_status, [_handle, _handle, c_size_t, POINTER(c_double)]),
    # matmul.h
    "sffn_matmul_create": (_status, [_handle, POINTER(sffn_matmul_config), _out]),
    "sffn_matmul_destroy": (None, [_handle]),
    "sffn_matmul_rows_dot": (
        _status,
        [_handle, _handle, _array, c_size_t, c_size_t, _handle, _array, c_size_t],
    ),
    "sffn_matmul_rows_axpy": (
        _status,
        [_handle, _handle, _array, c_size_t, c_size_t, _handle, _array, c_size_t],
    ),
    "sffn_matmul_get_row": (_status, [_handle, c_uint32, _array]),
    "sffn_matmul_get_info": (_status, [_handle, POINTER(sffn_matmul_info)]),
    # predictor.h
    "sffn_predictor_create": (_status, [_handle, POINTER(sffn_predictor_config), _out]),
    "sffn_predictor_destroy": (None, [_handle]),
    "sffn_predictor_predict": (
        _status,
        [_handle, _handle, _array, c_size_t, c_size_t, _array, c_size_t, _handle],
    ),
    "sffn_predictor_predict_layers": (_status, [_handle, _handle, _array, c_size_t, c_size_t, _out]),
    "sffn_predictor_count_bytes": (
        _status,
        [_handle, _handle, _array, c_size_t, c_size_t, POINTER(c_uint64)],
    ),
    "sffn_predictor_weight_bytes": (c_uint64, [_handle]),
    "sffn_predictor_get_info": (_status, [_handle, POINTER(sffn_predictor_info)]),
    # router.h
    "sffn_router_create": (_status, [_handle, POINTER(sffn_router_config), _out]),
    "sffn_router_destroy": (None, [_handle]),
    "sffn_router_select": (
        _status,
        [_handle, _handle, _array, c_size_t, c_size_t, _array, c_size_t, _handle],
    ),
    "sffn_router_weight_bytes": (c_uint64, [_handle]),
    "sffn_router_get_info": (_status, [_handle, POINTER(sffn_router_info)]),
    # ffn.h
    "sffn_ffn_config_slice": (_status, [_handle, POINTER(sffn_ffn_config), c_uint32, c_uint32]),
    "sffn_predictor_config_slice": (_status, [_handle, POINTER(sffn_predictor_config), c_uint32, c_uint32]),
    "sffn_router_config_slice": (_status, [_handle, POINTER(sffn_router_config), c_uint32, c_uint32]),
    "sffn_ffn_create": (_status, [_handle, POINTER(sffn_ffn_config), _out]),
    "sffn_ffn_destroy": (None, [_handle]),
    "sffn_ffn_reserve": (_status, [_handle, _handle]),
    "sffn_ffn_query_scratch": (c_size_t, [_handle, _handle]),
    "sffn_ffn_forward": (_status, [_handle, _handle, POINTER(sffn_ffn_args)]),
    "sffn_ffn_n_phases": (c_uint32, [_handle, POINTER(sffn_ffn_args)]),
    "sffn_ffn_forward_phase": (
        _status,
        [_handle, _handle, POINTER(sffn_ffn_args), c_uint32, c_uint32, c_uint32],
    ),
    "sffn_ffn_forward_spmd": (
        _status,
        [_handle, _handle, POINTER(sffn_ffn_args), c_uint32, c_uint32, barrier_fn, c_void_p],
    ),
    "sffn_ffn_reserve_threads": (_status, [_handle, _handle, c_uint32]),
    "sffn_ffn_select": (_status, [_handle, _handle, _array, c_size_t, _handle]),
    "sffn_ffn_gate": (_status, [_handle, _handle, _array, c_size_t, _handle, _array, _handle]),
    "sffn_ffn_up": (_status, [_handle, _handle, _array, _array, c_size_t, _handle, _array]),
    "sffn_ffn_down": (_status, [_handle, _handle, _array, c_size_t, _handle, _array]),
    "sffn_ffn_get_info": (_status, [_handle, POINTER(sffn_ffn_info)]),
    # stats.h
    "sffn_context_get_layer_stats": (_status, [_handle, _handle, POINTER(sffn_layer_stats)]),
    "sffn_context_reset_stats": (_status, [_handle]),
    "sffn_context_write_stats": (_status, [_handle, c_int32, c_char_p, c_size_t, POINTER(c_size_t)]),
    "sffn_dense_reason_name": (c_char_p, [c_int32]),
    "sffn_rule_name": (c_char_p, [c_int32]),
    "sffn_rule_from_name": (c_int32, [c_char_p]),
    "sffn_activation_name": (c_char_p, [c_int32]),
    "sffn_activation_from_name": (c_int32, [c_char_p]),
    # calibrate.h
    "sffn_calibration_create": (_status, [_handle, POINTER(sffn_calibration_config), _out]),
    "sffn_calibration_destroy": (None, [_handle]),
    "sffn_calibration_add": (_status, [_handle, _handle, _array, c_size_t, _array, c_size_t, c_size_t]),
    "sffn_calibration_get_info": (_status, [_handle, POINTER(sffn_calibration_info)]),
    "sffn_calibration_get_samples": (_status, [_handle, _array, _array]),
    "sffn_calibration_get_second_moment": (_status, [_handle, _handle, _array]),
    "sffn_calibration_measure": (_status, [_handle, _handle, POINTER(sffn_activity), POINTER(sffn_measured)]),
    "sffn_calibration_find_threshold": (
        _status,
        [_handle, _handle, POINTER(sffn_threshold_config), POINTER(sffn_activity), _array, POINTER(sffn_measured)],
    ),
    "sffn_cluster_neurons": (_status, [_handle, POINTER(sffn_cluster_config), _array, POINTER(c_double)]),
    "sffn_fit_svd": (_status, [_handle, POINTER(sffn_svd_config), _array, _array, POINTER(c_double)]),
    "sffn_calibration_measure_selector": (
        _status,
        [_handle, _handle, _handle, _handle, POINTER(sffn_activity), POINTER(sffn_selector_report)],
    ),
    "sffn_calibration_selector_threshold": (
        _status,
        [
            _handle,
            _handle,
            _handle,
            _handle,
            POINTER(sffn_activity),
            c_double,
            POINTER(c_float),
            _array,
            POINTER(c_float),
        ],
    ),
    "sffn_fit_low_rank": (
        _status,
        [_handle, _handle, POINTER(sffn_low_rank_config), _array, _array, _array, _array, POINTER(sffn_fit_result)],
    ),
    "sffn_fit_router": (
        _status,
        [_handle, _handle, POINTER(sffn_router_fit_config), _array, _array, POINTER(sffn_fit_result)],
    ),
    # model.h, prepare.h
    "sffn_model_open": (_status, [_handle, c_char_p, _out]),
    "sffn_model_close": (None, [_handle]),
    "sffn_model_get_info": (_status, [_handle, POINTER(sffn_model_info)]),
    "sffn_model_get_tensor": (_status, [_handle, c_size_t, POINTER(sffn_tensor_info)]),
    "sffn_model_find_tensor": (_status, [_handle, c_char_p, POINTER(sffn_tensor_info)]),
    "sffn_model_get_meta": (
        _status,
        [_handle, c_size_t, POINTER(c_char_p), POINTER(c_int32), POINTER(c_int32), POINTER(c_uint64)],
    ),
    "sffn_model_get_int": (_status, [_handle, c_char_p, c_size_t, POINTER(c_int64)]),
    "sffn_model_get_float": (_status, [_handle, c_char_p, c_size_t, POINTER(c_double)]),
    # The text is not NUL-terminated: its address, then string_at().
    "sffn_model_get_string": (_status, [_handle, c_char_p, c_size_t, _out, POINTER(c_size_t)]),
    "sffn_model_meta_count": (c_size_t, [_handle, c_char_p]),
    "sffn_model_layer_config": (_status, [_handle, c_uint32, POINTER(sffn_ffn_config)]),
    "sffn_model_layer_predictor_config": (_status, [_handle, c_uint32, POINTER(sffn_predictor_config)]),
    "sffn_model_layer_router_config": (_status, [_handle, c_uint32, POINTER(sffn_router_config)]),
    "sffn_model_layer_plan": (_status, [_handle, c_uint32, POINTER(c_int32)]),
    "sffn_model_layer_permutation": (_status, [_handle, c_uint32, _array]),
    "sffn_ffn_create_from_model": (_status, [_handle, _handle, c_uint32, POINTER(sffn_ffn_config), _out]),
    "sffn_prepare": (_status, [_handle, _handle, c_char_p, POINTER(sffn_prepare_config)]),
    # train.h
    "sffn_prosparse_lambda": (_status, [POINTER(sffn_prosparse_stage), c_size_t, c_uint64, POINTER(c_double)]),
}

STRUCTS: tuple[type[Structure], ...] = (
    sffn_allocator,
    sffn_context_config,
    sffn_context_info,
    sffn_active_set_config,
    sffn_value_rule,
    sffn_weights,
    sffn_matmul_config,
    sffn_matmul_info,
    sffn_predictor_config,
    sffn_predictor_info,
    sffn_router_config,
    sffn_router_info,
    sffn_ffn_config,
    sffn_ffn_stats,
    sffn_ffn_args,
    sffn_ffn_info,
    sffn_layer_stats,
    sffn_calibration_config,
    sffn_calibration_info,
    sffn_activity,
    sffn_measured,
    sffn_threshold_config,
    sffn_cluster_config,
    sffn_svd_config,
    sffn_selector_report,
    sffn_fit_result,
    sffn_low_rank_config,
    sffn_router_fit_config,
    sffn_model_info,
    sffn_tensor_info,
    sffn_prepare_layer,
    sffn_prepare_config,
    sffn_prosparse_stage,
)
