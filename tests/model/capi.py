"""The few calls of libsparseffn that the tests of model files need, through ctypes. The library's path: $SFFN_LIBRARY."""
import ctypes as c
import os

import numpy as np

OK, INVALID, SHAPE, DTYPE, UNSUPPORTED = 0, 10, 11, 12, 13
IO, FORMAT, NOT_FOUND, INTERRUPTED = 30, 31, 32, 40
F32, F16, BF16, Q8_0, Q4_0 = range(5)
META = {0: "none", 1: "int", 2: "float", 3: "bool", 4: "string", 5: "array"}

u32, i32, u64, size = c.c_uint32, c.c_int32, c.c_uint64, c.c_size_t
PROGRESS = c.CFUNCTYPE(i32, c.c_void_p, c.c_char_p, u64, u64)


class ModelInfo(c.Structure):
    _fields_ = [("struct_size", size), ("format", i32), ("architecture", c.c_char_p), ("name", c.c_char_p),
                ("n_layers", u32), ("d_model", u32), ("d_ff", u32), ("n_heads", u32), ("n_kv_heads", u32),
                ("head_dim", u32), ("n_vocab", u32), ("n_context", u32), ("rms_norm_eps", c.c_float),
                ("rope_theta", c.c_float), ("activation", i32), ("act_threshold", c.c_float), ("act_tie", i32),
                ("is_tied", i32), ("rope_is_permuted", i32), ("n_tensors", size), ("file_bytes", u64)]


class TensorInfo(c.Structure):
    _fields_ = [("struct_size", size), ("name", c.c_char_p), ("file_name", c.c_char_p), ("type_name", c.c_char_p),
                ("dtype", i32), ("n_dims", u32), ("dims", u64 * 4), ("data", c.c_void_p), ("bytes", u64)]


class PrepareConfig(c.Structure):
    _fields_ = [("struct_size", size), ("dtype", i32), ("keep_embeddings", i32), ("act_threshold", c.c_float),
                ("progress", PROGRESS), ("progress_user", c.c_void_p)]


class ContextConfigHead(c.Structure):
    """As much of sffn_context_config as is needed to set n_threads: an older caller, so to say."""
    _fields_ = [("struct_size", size), ("alloc_user", c.c_void_p), ("alloc", c.c_void_p), ("free", c.c_void_p),
                ("log", c.c_void_p), ("log_user", c.c_void_p), ("n_threads", u32)]


lib = c.CDLL(os.environ["SFFN_LIBRARY"])
for name, result, *args in [
        ("sffn_context_create", i32, c.c_void_p, c.POINTER(c.c_void_p)),
        ("sffn_context_destroy", None, c.c_void_p),
        ("sffn_context_last_error", c.c_char_p, c.c_void_p),
        ("sffn_model_open", i32, c.c_void_p, c.c_char_p, c.POINTER(c.c_void_p)),
        ("sffn_model_close", None, c.c_void_p),
        ("sffn_model_get_info", i32, c.c_void_p, c.POINTER(ModelInfo)),
        ("sffn_model_get_tensor", i32, c.c_void_p, size, c.POINTER(TensorInfo)),
        ("sffn_model_find_tensor", i32, c.c_void_p, c.c_char_p, c.POINTER(TensorInfo)),
        ("sffn_model_get_meta", i32, c.c_void_p, size, c.POINTER(c.c_char_p), c.POINTER(i32), c.POINTER(i32), c.POINTER(u64)),
        ("sffn_model_get_int", i32, c.c_void_p, c.c_char_p, size, c.POINTER(c.c_int64)),
        ("sffn_model_get_float", i32, c.c_void_p, c.c_char_p, size, c.POINTER(c.c_double)),
        ("sffn_model_get_string", i32, c.c_void_p, c.c_char_p, size, c.POINTER(c.c_void_p), c.POINTER(size)),
        ("sffn_model_meta_count", size, c.c_void_p, c.c_char_p),
        ("sffn_prepare", i32, c.c_void_p, c.c_void_p, c.c_char_p, c.POINTER(PrepareConfig)),
        ("sffn_activation_name", c.c_char_p, i32),
]:
    function = getattr(lib, name)
    function.restype, function.argtypes = result, args


class Error(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Context:
    def __init__(self, n_threads=1):
        self.handle = c.c_void_p()
        config = ContextConfigHead(n_threads=n_threads)
        config.struct_size = c.sizeof(config)
        assert lib.sffn_context_create(c.byref(config), c.byref(self.handle)) == OK

    def check(self, status):
        if status != OK:
            raise Error(status, lib.sffn_context_last_error(self.handle).decode())

    def open(self, path):
        return Model(self, path)

    def prepare(self, model, path, dtype=-1, keep_embeddings=1, act_threshold=-1.0, progress=None):
        config = PrepareConfig(0, dtype, keep_embeddings, act_threshold, PROGRESS(progress) if progress else PROGRESS(), None)
        config.struct_size = c.sizeof(config)
        self.check(lib.sffn_prepare(self.handle, model.handle, os.fsencode(path), c.byref(config)))


class Model:
    def __init__(self, ctx, path):
        self.ctx, self.handle = ctx, c.c_void_p()
        ctx.check(lib.sffn_model_open(ctx.handle, os.fsencode(path), c.byref(self.handle)))

    def close(self):
        lib.sffn_model_close(self.handle)
        self.handle = None

    def info(self):
        info = ModelInfo()
        info.struct_size = c.sizeof(info)
        self.ctx.check(lib.sffn_model_get_info(self.handle, c.byref(info)))
        return info

    def _tensor(self, status, info):
        self.ctx.check(status)
        n = int(info.bytes)
        raw = np.frombuffer((c.c_char * n).from_address(info.data), np.uint8) if n else np.zeros(0, np.uint8)
        return {"name": info.name.decode(), "file_name": info.file_name.decode(), "type": info.type_name.decode(),
                "dtype": info.dtype, "dims": tuple(info.dims[:info.n_dims]), "raw": raw}

    def tensors(self):
        out = []
        for i in range(self.info().n_tensors):
            info = TensorInfo(struct_size=c.sizeof(TensorInfo))
            out.append(self._tensor(lib.sffn_model_get_tensor(self.handle, i, c.byref(info)), info))
        return out

    def find(self, name):
        info = TensorInfo(struct_size=c.sizeof(TensorInfo))
        return self._tensor(lib.sffn_model_find_tensor(self.handle, name.encode(), c.byref(info)), info)

    def metas(self):
        """{key: value}; arrays become lists, nested ones None."""
        out, index = {}, 0
        key, kind, element, n = c.c_char_p(), i32(), i32(), u64()
        while lib.sffn_model_get_meta(self.handle, index, c.byref(key), c.byref(kind), c.byref(element), c.byref(n)) == OK:
            index += 1
            if META[kind.value] == "array":
                values = [self.value(key.value, i, META[element.value]) for i in range(n.value)]
            else:
                assert n.value == 1
                values = self.value(key.value, 0, META[kind.value])
            out[key.value.decode()] = values
        return out

    def value(self, key, index, kind):
        if kind in ("int", "bool"):
            out = c.c_int64()
            status = lib.sffn_model_get_int(self.handle, key, index, c.byref(out))
            if status == DTYPE:  # over 2^63, or no number at all
                return int(self.value(key, index, "float"))
            self.ctx.check(status)
            return bool(out.value) if kind == "bool" else out.value
        if kind == "float":
            out = c.c_double()
            self.ctx.check(lib.sffn_model_get_float(self.handle, key, index, c.byref(out)))
            return out.value
        if kind == "string":
            text, n = c.c_void_p(), size()
            self.ctx.check(lib.sffn_model_get_string(self.handle, key, index, c.byref(text), c.byref(n)))
            return c.string_at(text, n.value).decode() if n.value else ""
        return None
