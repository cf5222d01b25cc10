"""A layer of a model file in Python: what examples/quickstart shows. Needs PYTHONPATH and SPARSEFFN_LIBRARY as there."""
import numpy as np
import sparseffn as sf

layer = sf.Model(sf.Context(), "examples/models/reglu-33m.gguf").ffn(3)
x = np.fromfile("examples/models/layer3_inputs.f32", np.float32).reshape(-1, layer.d_model)[0]
print("y, sparse and dense:", layer.forward(x)[:4], layer.forward(x, select="dense")[:4])
