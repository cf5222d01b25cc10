"""sparseffn/_abi.py against the headers, by a C program compiled here; and what happens with a wrong library.

Needs a C compiler, not the library.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include" / "sparseffn"
PACKAGE = ROOT / "bindings" / "python"
CC = os.environ.get("CC", "").split() or ([found] if (found := shutil.which("cc") or shutil.which("gcc")) else [])

needs_cc = pytest.mark.skipif(not CC, reason="no C compiler")


def load(name):
    """One module of the package without the package, which would load the library."""
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "sparseffn" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


abi = load("_abi")
enums = load("_enums")


@pytest.fixture(scope="module")
def headers():
    text = "\n".join(path.read_text() for path in sorted(HEADERS.glob("*.h")))
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    return re.sub(r"//[^\n]*", " ", text)


def compile_c(tmp_path, source, *options, name="probe"):
    path = tmp_path / f"{name}.c"
    path.write_text(source)
    out = tmp_path / name
    subprocess.run([*CC, *options, f"-I{ROOT / 'include'}", str(path), "-o", str(out)], check=True)
    return out


def init_macro(struct):
    return struct.__name__.upper() + "_INIT"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """{"struct": size, "struct.field": (offset, size, default bytes)} as the C compiler sees them."""
    if not CC:
        pytest.skip("no C compiler")
    lines = []
    for struct in abi.STRUCTS:
        name = struct.__name__
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        has_init = issubclass(struct, abi.Sized) or name == "sffn_weights"
        lines.append(f"{{ static const {name} v{' = ' + init_macro(struct) if has_init else ''};")
        for field, _ in struct._fields_:
            lines.append(
                f'printf("{name}.{field} %zu %zu ", offsetof({name}, {field}), sizeof v.{field});'
                f" hex(&v.{field}, sizeof v.{field});"
            )
        lines.append("}")
    source = (
        '#include <stdio.h>\n#include "sparseffn/sparseffn.h"\n'
        "static void hex(const void *p, size_t n) { for (size_t i = 0; i < n; i++) "
        'printf("%02x", ((const unsigned char *)p)[i]); printf("\\n"); }\n'
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    program = compile_c(tmp_path_factory.mktemp("abi"), source, "-std=c11", "-DSFFN_STATIC")
    found = {}
    for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines():
        name, *numbers = line.split()
        found[name] = int(numbers[0]) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]), numbers[2])
    return found


def test_every_struct_of_the_headers_is_declared(headers):
    assert set(re.findall(r"typedef struct (sffn_\w+)\s*\{", headers)) == {s.__name__ for s in abi.STRUCTS}


@pytest.mark.parametrize("struct", abi.STRUCTS, ids=lambda s: s.__name__)
def test_struct_size_offsets_and_defaults(struct, layout):
    name = struct.__name__
    assert ctypes.sizeof(struct) == layout[name]
    value = struct()
    raw = bytes(value)
    for field, _ in struct._fields_:
        descriptor = getattr(struct, field)
        offset, size, default = layout[f"{name}.{field}"]
        assert (descriptor.offset, descriptor.size) == (offset, size), field
        assert raw[offset : offset + size].hex() == default, field


@pytest.mark.parametrize("struct", abi.STRUCTS, ids=lambda s: s.__name__)
def test_struct_field_names(struct, headers):
    body = re.search(rf"typedef struct {struct.__name__}\s*\{{(.*?)\}}\s*{struct.__name__};", headers, re.S).group(1)
    names = []
    for declaration in body.split(";"):
        declaration = re.sub(r"\[[^\]]*\]", "", declaration)
        if "(*" in declaration:
            names.append(re.search(r"\(\*(\w+)\)", declaration).group(1))
        elif declaration.strip():
            first, *more = declaration.split(",")
            names += [re.findall(r"\w+", first)[-1], *(m.strip() for m in more)]
    assert names == [field for field, _ in struct._fields_]


ENUMS = {
    "sffn_dtype": (enums.DType, "SFFN_"),
    "sffn_layout": (enums.Layout, "SFFN_LAYOUT_"),
    "sffn_storage": (enums.Storage, "SFFN_STORAGE_"),
    "sffn_huge_pages": (enums.HugePages, "SFFN_HUGE_PAGES_"),
    "sffn_log_level": (enums.LogLevel, "SFFN_LOG_"),
    "sffn_activation": (enums.Activation, "SFFN_ACT_"),
    "sffn_rule": (enums.Rule, "SFFN_RULE_"),
    "sffn_tie": (enums.Tie, "SFFN_TIE_"),
    "sffn_value_rule_kind": (enums.ValueRule, "SFFN_VALUE_"),
    "sffn_stats_format": (enums.StatsFormat, "SFFN_STATS_"),
    "sffn_select": (enums.Select, "SFFN_SELECT_"),
    "sffn_path": (enums.Path, "SFFN_PATH_"),
    "sffn_dense_reason": (enums.DenseReason, "SFFN_DENSE_"),
    "sffn_predictor_kind": (enums.PredictorKind, "SFFN_PREDICTOR_"),
    "sffn_decision": (enums.Decision, "SFFN_DECIDE_"),
    "sffn_hidden_activation": (enums.HiddenActivation, "SFFN_HIDDEN_"),
    "sffn_selector_input": (enums.SelectorInput, "SFFN_INPUT_"),
    "sffn_weighting": (enums.Weighting, "SFFN_WEIGHTING_"),
    "sffn_router_rule": (enums.RouterRule, "SFFN_ROUTER_"),
    "sffn_active_kind": (enums.Active, "SFFN_ACTIVE_"),
    "sffn_fit_start": (enums.FitStart, "SFFN_FIT_START_"),
    "sffn_expert_score": (enums.ExpertScore, "SFFN_EXPERT_"),
    "sffn_file_format": (enums.FileFormat, "SFFN_FILE_"),
    "sffn_meta_kind": (enums.MetaKind, "SFFN_META_"),
}


def header_enums(headers):
    found = {}
    for name, body in re.findall(r"enum (sffn_\w+)\s*\{(.*?)\}", headers, re.S):
        members = dict(re.findall(r"(SFFN_\w+)\s*=\s*(0x[0-9a-fA-F]+|\d+)", body))
        found[name] = {k: int(v, 0) for k, v in members.items() if not k.endswith("_")}
    return found


def test_enums(headers):
    found = header_enums(headers)
    statuses = found.pop("sffn_status")
    assert found.keys() == ENUMS.keys()
    for name, (python, prefix) in ENUMS.items():
        assert {prefix + m.name: m.value for m in python} == found[name]
    assert statuses.pop("SFFN_OK") == 0
    source = (PACKAGE / "sparseffn" / "_errors.py").read_text()
    in_python = {
        f"SFFN_ERR_{name}": int(n) for name, n in re.findall(r"\(SFFN_ERR_(\w+)\)\.\"\"\"\s+STATUS = (\d+)", source)
    }
    assert in_python == statuses


def expected_type(c, is_result):
    """The ctypes type that a C parameter or result type must be declared as; a tuple where two would do."""
    c = c.strip()
    structs = {s.__name__: s for s in abi.STRUCTS}
    if "(*" in c:
        return "callback"
    if not is_result:
        match = re.fullmatch(r"(.*?[\s*])(\w+)", c, re.S)
        c = match.group(1) if match and match.group(1).strip() not in ("const",) else c
    stars = c.count("*")
    base = c.replace("*", " ").replace("const", " ").split()[0]
    scalars = {
        "sffn_status": ctypes.c_int,
        "size_t": ctypes.c_size_t,
        "uint32_t": ctypes.c_uint32,
        "int32_t": ctypes.c_int32,
        "uint64_t": ctypes.c_uint64,
        "int64_t": ctypes.c_int64,
        "double": ctypes.c_double,
        "float": ctypes.c_float,
    }
    if stars == 0:
        return None if base == "void" else scalars[base]
    if base == "char":
        return ctypes.c_char_p if stars == 1 else (ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_void_p))
    if base in structs:
        return ctypes.POINTER(structs[base])
    if stars == 2:
        return ctypes.POINTER(ctypes.c_void_p)
    if base in scalars and "const" not in c:
        return (ctypes.POINTER(scalars[base]), ctypes.c_void_p)
    return ctypes.c_void_p


def split_arguments(text):
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [p for p in (part.strip() for part in parts) if p and p != "void"]


def test_prototypes(headers):
    text = re.sub(r"^\s*#.*$", "", headers, flags=re.M)
    found = {}
    for declaration in re.findall(r"SFFN_API\s+(.*?);", text, re.S):
        match = re.fullmatch(r"(.*?[\s*])(sffn_\w+)\s*\((.*)\)", " ".join(declaration.split()))
        found[match.group(2)] = (match.group(1), split_arguments(match.group(3)))
    assert found.keys() == abi.FUNCTIONS.keys()
    for name, (result, arguments) in found.items():
        restype, argtypes = abi.FUNCTIONS[name]
        assert restype == expected_type(result, True), name
        assert len(arguments) == len(argtypes), name
        for c, python in zip(arguments, argtypes):
            want = expected_type(c, False)
            if want == "callback":
                assert issubclass(python, ctypes._CFuncPtr), (name, c)
            else:
                assert python in (want if isinstance(want, tuple) else (want,)), (name, c)


def test_versions_agree():
    text = (HEADERS / "version.h").read_text()
    number = {k: int(v) for k, v in re.findall(r"#define SFFN_(\w+) (\d+)", text)}
    assert (
        load("_version").__version__ == f"{number['VERSION_MAJOR']}.{number['VERSION_MINOR']}.{number['VERSION_PATCH']}"
    )
    assert number["ABI_VERSION"] == abi.ABI_VERSION


def test_enum_parse():
    assert enums.parse(enums.Activation, "gelu", "a") is enums.Activation.GELU_ERF
    assert enums.parse(enums.Activation, "ReLU", "a") is enums.Activation.RELU
    assert enums.parse(enums.Activation, 4, "a") is enums.Activation.SILU
    assert enums.parse(enums.Tie, enums.Tie.KEEP, "a") is enums.Tie.KEEP
    for wrong in ("swish", 99, -1):
        with pytest.raises(ValueError, match="act.*'relu', 'fatrelu'"):
            enums.parse(enums.Activation, wrong, "act")
    for wrong in (1.5, None, True, enums.Tie.KEEP):
        with pytest.raises(TypeError, match="act: expected sparseffn.Activation or its name"):
            enums.parse(enums.Activation, wrong, "act")
    assert isinstance(enums.Tie.KEEP, IntEnum)


def run_import(tmp_path, library, package=PACKAGE, **more):
    environment = {k: v for k, v in os.environ.items() if k != "SPARSEFFN_LIBRARY"}
    for name, value in dict(PYTHONPATH=str(package), **more).items():
        environment[name] = os.pathsep.join([value, *filter(None, [os.environ.get(name)])])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if library is not None:
        environment["SPARSEFFN_LIBRARY"] = str(library)
    code = "import sparseffn; print(sparseffn.library_path)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)


@needs_cc
@pytest.mark.parametrize(
    "source, message",
    [
        ("unsigned sffn_abi_version(void) { return 99; }", "speaks ABI version 0 of libsparseffn.*has ABI version 99"),
        ("int other(void) { return 0; }", "is no libsparseffn"),
        ("unsigned sffn_abi_version(void) { return 0; }", "has no function sffn_version: the library is older"),
    ],
    ids=["other ABI", "other library", "older library"],
)
def test_wrong_library(tmp_path, source, message):
    library = compile_c(tmp_path, source, "-shared", "-fPIC", name="libfake.so")
    done = run_import(tmp_path, library)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: sparseffn: ") and re.search(message, last), last
    assert str(library) in last


def test_missing_library(tmp_path):
    done = run_import(tmp_path, tmp_path / "nowhere.so")
    assert done.returncode == 1
    assert "ImportError: sparseffn: cannot load" in done.stderr and "SPARSEFFN_LIBRARY" in done.stderr


def test_library_beside_the_package(tmp_path):
    library = os.environ.get("SPARSEFFN_LIBRARY")
    if not library:
        pytest.skip("no library")
    shutil.copytree(PACKAGE / "sparseffn", tmp_path / "sparseffn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sparseffn" / f"libsparseffn.so.{abi.ABI_VERSION}").symlink_to(Path(library).resolve())
    done = run_import(tmp_path, None, package=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "sparseffn" / f"libsparseffn.so.{abi.ABI_VERSION}")


def test_library_of_the_system(tmp_path):
    library = os.environ.get("SPARSEFFN_LIBRARY")
    if not library:
        pytest.skip("no library")
    (tmp_path / f"libsparseffn.so.{abi.ABI_VERSION}").symlink_to(Path(library).resolve())
    done = run_import(tmp_path, None, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
