#include "bad_files.h"

#include <stdlib.h>
#include <string.h>

/* Tables, as far as the eye is concerned. */
/* clang-format off */
#define MAKE(name) static void make_##name(struct buf *b)
#define NE(...) ((const uint64_t[]){__VA_ARGS__})

/* ---- GGUF: header ---- */

MAKE(three_bytes) { b_raw(b, "GGU", 3); }
MAKE(only_magic) { b_raw(b, "GGUF", 4); }
MAKE(short_header) { g_head(b, 3, 0, 0), b->n--; }
MAKE(wrong_magic) { b_raw(b, "GGML", 4), b_u32(b, 3), b_u64(b, 0), b_u64(b, 0); }
MAKE(version_0) { g_head(b, 0, 0, 0); }
MAKE(version_1) { g_head(b, 1, 0, 0); }
MAKE(version_4) { g_head(b, 4, 0, 0); }
MAKE(big_endian) { g_head(b, 0x03000000, 0, 0); }
MAKE(n_tensors_max) { g_head(b, 3, UINT64_MAX, 0), b_fill(b, 64); }          /* CVE-2024-21825 */
MAKE(n_tensors_negative) { g_head(b, 3, (uint64_t)1 << 63, 0), b_fill(b, 64); }
MAKE(n_tensors_product) { g_head(b, 3, (uint64_t)1 << 58, 0), b_fill(b, 64); } /* times the size of a tensor's struct wraps */
MAKE(n_keys_max) { g_head(b, 3, 0, UINT64_MAX), b_fill(b, 64); }             /* CVE-2024-23605, ggml PR#709 */
MAKE(n_keys_product) { g_head(b, 3, 0, UINT64_MAX / 56 + 1), b_fill(b, 64); }
MAKE(n_keys_one_too_many) { g_head(b, 3, 0, 2), g_key_u32(b, "a", 1); }
MAKE(n_tensors_after_keys) { g_head(b, 3, 2, 1), g_key_text(b, "a", "0123456789012345678901234567890123456789"), b_fill(b, 40); }

/* ---- GGUF: keys ---- */

MAKE(key_length_max) { g_head(b, 3, 0, 1), b_u64(b, UINT64_MAX), b_fill(b, 32); } /* CVE-2024-23496: length + 1 wraps */
MAKE(key_length_beyond) { g_head(b, 3, 0, 1), b_u64(b, 33), b_fill(b, 32); }
MAKE(key_empty) { g_head(b, 3, 0, 1), g_key_u32(b, "", 1), b_fill(b, 8); }
MAKE(key_zero_byte) { g_head(b, 3, 0, 1), b_u64(b, 3), b_raw(b, "a\0b", 3), b_u32(b, K_U32), b_u32(b, 1); }
MAKE(key_not_utf8) { g_head(b, 3, 0, 1), g_key_u32(b, "a\xff\xfe", 1); }
MAKE(key_too_long)
{
    char key[65537];
    memset(key, 'k', sizeof(key));
    key[65536] = '\0';
    g_head(b, 3, 0, 1), g_key_u32(b, key, 1);
}
MAKE(key_twice) { g_head(b, 3, 0, 3), g_key_u32(b, "a", 1), g_key_u32(b, "b", 1), g_key_u32(b, "a", 2); }
MAKE(type_13) { g_head(b, 3, 0, 1), g_key(b, "a", 13), b_fill(b, 16); }
MAKE(type_max) { g_head(b, 3, 0, 1), g_key(b, "a", UINT32_MAX), b_fill(b, 16); }
MAKE(scalar_cut) { g_head(b, 3, 0, 1), g_key(b, "abc", K_U64), b_u32(b, 1); }
MAKE(string_length_max) { g_head(b, 3, 0, 1), g_key(b, "a", K_STRING), b_u64(b, UINT64_MAX), b_fill(b, 16); }
MAKE(string_length_negative) { g_head(b, 3, 0, 1), g_key(b, "a", K_STRING), b_u64(b, (uint64_t)1 << 63), b_fill(b, 16); }
MAKE(string_length_beyond) { g_head(b, 3, 0, 1), g_key(b, "a", K_STRING), b_u64(b, 17), b_fill(b, 16); }
MAKE(bool_2) { g_head(b, 3, 0, 1), g_key(b, "abc", K_BOOL), b_u8(b, 2); }
MAKE(bools_2) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_BOOL, 3), b_raw(b, "\0\1\2", 3); }
MAKE(array_type_13) { g_head(b, 3, 0, 1), g_key_array(b, "a", 13, 1), b_fill(b, 16); }
MAKE(array_count_max) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_U8, UINT64_MAX), b_fill(b, 16); } /* CVE-2024-21836 */
MAKE(array_count_product) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_U64, (uint64_t)1 << 61), b_fill(b, 16); } /* CVE-2024-21802: n * 8 wraps to 0 */
MAKE(array_count_2_63) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_U32, (uint64_t)1 << 63), b_fill(b, 16); } /* gguf-py PR#27188: endless */
MAKE(array_count_beyond) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_U16, 9), b_fill(b, 16); }
MAKE(strings_count_beyond) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_STRING, 3), b_u64(b, 0), b_u64(b, 0), b_fill(b, 7); }
MAKE(strings_count_2_61) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_STRING, (uint64_t)1 << 61), b_fill(b, 16); } /* times a pointer's size wraps */
MAKE(strings_length_max) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_STRING, 2), b_u64(b, 0), b_u64(b, UINT64_MAX), b_fill(b, 4); }
MAKE(arrays_too_deep)
{
    g_head(b, 3, 0, 1), g_key(b, "a", K_ARRAY);
    for (int i = 0; i < 100000; i++)
        b_u32(b, K_ARRAY), b_u64(b, 1);
    b_u32(b, K_U8), b_u64(b, 0);
}
MAKE(nested_count_max) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_ARRAY, 1), b_u32(b, K_U16), b_u64(b, (uint64_t)1 << 63), b_fill(b, 8); }
MAKE(nested_arrays_count) { g_head(b, 3, 0, 1), g_key_array(b, "a", K_ARRAY, UINT64_MAX / 12), b_fill(b, 24); }
MAKE(alignment_0) { g_head(b, 3, 0, 1), g_key_u32(b, "general.alignment", 0); }
MAKE(alignment_3) { g_head(b, 3, 0, 1), g_key_u32(b, "general.alignment", 24); }
MAKE(alignment_2_31) { g_head(b, 3, 0, 1), g_key_u32(b, "general.alignment", 0x80000000u); } /* llama.cpp PR#24997 */
MAKE(alignment_u64) { g_head(b, 3, 0, 1), g_key(b, "general.alignment", K_U64), b_u64(b, 32); } /* type confusion, PR#26690 */
MAKE(alignment_text) { g_head(b, 3, 0, 1), g_key_text(b, "general.alignment", "32"); }
MAKE(architecture_int) { g_head(b, 3, 0, 1), g_key_u32(b, "general.architecture", 1); }
MAKE(architecture_empty) { g_head(b, 3, 0, 1), g_key_text(b, "general.architecture", ""); }
MAKE(architecture_long) { g_head(b, 3, 0, 1), g_key_text(b, "general.architecture", "0123456789012345678901234567890123456789012345678901234567890123"); }

static void llama(struct buf *b, uint64_t n_keys)
{
    g_head(b, 3, 0, n_keys + 1);
    g_key_text(b, "general.architecture", "llama");
}
MAKE(blocks_float) { llama(b, 1), g_key_f32(b, "llama.block_count", 2.0f); }
MAKE(blocks_negative) { llama(b, 1), g_key(b, "llama.block_count", K_I32), b_u32(b, UINT32_MAX); }
MAKE(blocks_2_40) { llama(b, 1), g_key(b, "llama.block_count", K_U64), b_u64(b, (uint64_t)1 << 40); }
MAKE(blocks_2_64) { llama(b, 1), g_key(b, "llama.block_count", K_U64), b_u64(b, UINT64_MAX); }
MAKE(d_ff_texts) { llama(b, 1), g_key_array(b, "llama.feed_forward_length", K_STRING, 1), b_text(b, "x"); } /* CVE-2025-49847's kind */
MAKE(eps_text) { llama(b, 1), g_key_text(b, "llama.attention.layer_norm_rms_epsilon", "1e-5"); }
MAKE(theta_nan) { llama(b, 1), g_key(b, "llama.rope.freq_base", K_F32), b_u32(b, 0x7fc00000); }
MAKE(theta_huge) { llama(b, 1), g_key(b, "llama.rope.freq_base", K_F64), b_u64(b, UINT64_C(0x7fe0000000000000)); }
MAKE(activation_int) { llama(b, 1), g_key_u32(b, "sffn.activation", 1); }
MAKE(activation_array) { llama(b, 1), g_key_array(b, "sffn.activation", K_STRING, 1), b_text(b, "relu"); }
MAKE(threshold_negative) { llama(b, 2), g_key_text(b, "sffn.activation", "fatrelu"), g_key_f32(b, "sffn.act_threshold", -1.0f); }
MAKE(threshold_missing) { llama(b, 1), g_key_text(b, "sffn.activation", "fatrelu"); }
MAKE(threshold_int) { llama(b, 2), g_key_text(b, "sffn.activation", "fatrelu"), g_key_u32(b, "sffn.act_threshold", 1); }
MAKE(tie_7) { llama(b, 2), g_key_text(b, "sffn.activation", "relu"), g_key_u32(b, "sffn.act_tie", 7); }
MAKE(split_file) { llama(b, 1), g_key(b, "split.count", K_U16), b_u8(b, 3), b_u8(b, 0); }

/* ---- GGUF: tensors ---- */

static void tensors(struct buf *b, uint64_t n)
{
    g_head(b, 3, n, 0);
}
MAKE(tensor_name_empty) { tensors(b, 1), g_tensor(b, "", 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(tensor_name_long)
{
    char name[257];
    memset(name, 'n', 256);
    name[256] = '\0';
    tensors(b, 1), g_tensor(b, name, 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 32);
}
MAKE(tensor_name_length_max) { tensors(b, 1), b_u64(b, UINT64_MAX), b_fill(b, 64); }
MAKE(tensor_name_zero_byte) { tensors(b, 1), b_u64(b, 2), b_raw(b, "a\0", 2), b_u32(b, 1), b_u64(b, 8), b_u32(b, 0), b_u64(b, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(tensor_name_not_utf8) { tensors(b, 1), g_tensor(b, "\xc3", 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(tensor_twice) { tensors(b, 2), g_tensor(b, "a", 1, NE(8), 0, 0), g_tensor(b, "a", 1, NE(8), 0, 32), b_pad(b, 32), b_fill(b, 64); }
MAKE(dims_5) { tensors(b, 1), g_tensor(b, "a", 5, NE(1, 1, 1, 1, 1), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(dims_max) { tensors(b, 1), b_text(b, "a"), b_u32(b, UINT32_MAX), b_fill(b, 64); }
MAKE(dim_0) { tensors(b, 1), g_tensor(b, "x", 2, NE(8, 0), 0, 0), b_pad(b, 32), b_fill(b, 32); } /* ggml divides by it */
MAKE(dim_max) { tensors(b, 1), g_tensor(b, "x", 3, NE(1, 1, UINT64_MAX), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(dim_negative) { tensors(b, 1), g_tensor(b, "x", 1, NE((uint64_t)1 << 63), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(dims_product_wraps) { tensors(b, 1), g_tensor(b, "x", 2, NE((uint64_t)1 << 32, (uint64_t)1 << 32), 0, 0), b_pad(b, 32), b_fill(b, 32); }
MAKE(dims_size_wraps) { tensors(b, 1), g_tensor(b, "x", 2, NE((uint64_t)1 << 31, (uint64_t)1 << 31), 0, 0), b_pad(b, 32), b_fill(b, 32); } /* CVE-2026-33298: elements fit, bytes wrap */
MAKE(dims_lie) { tensors(b, 1), g_tensor(b, "x", 4, NE(64, 64, 64, 64), 0, 0), b_pad(b, 32), b_fill(b, 32); } /* CVE-2026-7482 */
MAKE(row_no_block) { tensors(b, 1), g_tensor(b, "x", 2, NE(16, 4), 8, 0), b_pad(b, 32), b_fill(b, 4096); }
MAKE(row_no_k_block) { tensors(b, 1), g_tensor(b, "x", 2, NE(32, 8), 12, 0), b_pad(b, 32), b_fill(b, 4096); }
MAKE(scalar_of_blocks) { tensors(b, 1), g_tensor(b, "x", 0, NE(0), 2, 0), b_pad(b, 32), b_fill(b, 64); }
MAKE(tensor_type_4) { tensors(b, 1), g_tensor(b, "x", 1, NE(32), 4, 0), b_pad(b, 32), b_fill(b, 64); }
MAKE(tensor_type_31) { tensors(b, 1), g_tensor(b, "x", 1, NE(32), 31, 0), b_pad(b, 32), b_fill(b, 64); }
MAKE(tensor_type_43) { tensors(b, 1), g_tensor(b, "x", 1, NE(32), 43, 0), b_pad(b, 32), b_fill(b, 64); }
MAKE(tensor_type_max) { tensors(b, 1), g_tensor(b, "x", 1, NE(32), UINT32_MAX, 0), b_pad(b, 32), b_fill(b, 64); }
MAKE(offset_not_0) { tensors(b, 1), g_tensor(b, "x", 1, NE(8), 0, 32), b_pad(b, 32), b_fill(b, 64); }
MAKE(offset_unaligned) { tensors(b, 2), g_tensor(b, "x", 1, NE(8), 0, 0), g_tensor(b, "y", 1, NE(8), 0, 33), b_pad(b, 32), b_fill(b, 128); }
MAKE(offset_overlap) { tensors(b, 2), g_tensor(b, "x", 1, NE(8), 0, 0), g_tensor(b, "y", 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 128); }
MAKE(offset_hole) { tensors(b, 2), g_tensor(b, "x", 1, NE(8), 0, 0), g_tensor(b, "y", 1, NE(8), 0, 64), b_pad(b, 32), b_fill(b, 128); }
MAKE(offset_max) { tensors(b, 2), g_tensor(b, "x", 1, NE(8), 0, 0), g_tensor(b, "y", 1, NE(8), 0, UINT64_MAX - 31), b_pad(b, 32), b_fill(b, 128); }
MAKE(data_missing) { tensors(b, 1), g_tensor(b, "x", 1, NE(8), 0, 0); }
MAKE(data_cut) { tensors(b, 1), g_tensor(b, "x", 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 31); }
MAKE(second_data_cut) { tensors(b, 2), g_tensor(b, "x", 1, NE(8), 0, 0), g_tensor(b, "y", 1, NE(8), 0, 32), b_pad(b, 32), b_fill(b, 63); }
MAKE(sum_of_sizes)
{
    /* CVE-2025-53630, CVE-2026-27940: each fits, the sum does not. */
    tensors(b, 3);
    for (uint64_t i = 0; i < 3; i++)
        g_tensor(b, i == 0 ? "x" : i == 1 ? "y" : "z", 1, NE(32), 0, i * 128);
    b_pad(b, 32), b_fill(b, 300);
}
MAKE(info_cut) { tensors(b, 1), g_tensor(b, "tensor", 2, NE(8, 2), 0, 0), b->n -= 5; }
MAKE(alignment_past_end)
{
    g_head(b, 3, 1, 1), g_key_u32(b, "general.alignment", 1 << 20), g_tensor(b, "x", 1, NE(8), 0, 0), b_pad(b, 32), b_fill(b, 64);
}

/* ---- safetensors ---- */

#define T(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

MAKE(st_short) { b_raw(b, "\2\0\0\0\0\0\0", 7); }
MAKE(st_only_length) { b_u64(b, 2); }
MAKE(st_length_max) { b_u64(b, UINT64_MAX), b_raw(b, "{}", 2); }
MAKE(st_length_100m) { b_u64(b, 100000001), b_raw(b, "{}", 2); }
MAKE(st_length_beyond) { b_u64(b, 3), b_raw(b, "{}", 2); }
MAKE(st_length_0) { b_u64(b, 0), b_raw(b, "{}", 2); }
MAKE(st_leading_space) { s_file(b, " {}", 0); }
MAKE(st_array) { s_file(b, "[]", 0); }
MAKE(st_cut_json) { s_file(b, "{\"a\":{", 0); }
MAKE(st_garbage_after) { s_file(b, "{}x", 0); }
MAKE(st_two_objects) { s_file(b, "{}{}", 0); }
MAKE(st_zero_padding) { b_u64(b, 3), b_raw(b, "{}\0", 3); }
MAKE(st_not_utf8) { s_file(b, "{" T("a\xff", "U8", "[1]", "[0,1]") "}", 1); }
MAKE(st_twice) { s_file(b, "{" T("a", "U8", "[1]", "[0,1]") "," T("a", "U8", "[1]", "[1,2]") "}", 2); }
MAKE(st_twice_escaped) { s_file(b, "{" T("a", "U8", "[1]", "[0,1]") "," T("\\u0061", "U8", "[1]", "[1,2]") "}", 2); }
MAKE(st_field_twice) { s_file(b, "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1); }
MAKE(st_metadata_list) { s_file(b, "{\"__metadata__\":[]}", 0); }
MAKE(st_metadata_int) { s_file(b, "{\"__metadata__\":{\"a\":1}}", 0); }
MAKE(st_metadata_zero_byte) { s_file(b, "{\"__metadata__\":{\"a\\u0000\":\"x\"}}", 0); }
MAKE(st_tensor_int) { s_file(b, "{\"a\":1}", 0); }
MAKE(st_no_dtype) { s_file(b, "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1); }
MAKE(st_dtype_int) { s_file(b, "{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1); }
MAKE(st_dtype_unknown) { s_file(b, "{" T("a", "F31", "[1]", "[0,4]") "}", 4); }
MAKE(st_no_shape) { s_file(b, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1); }
MAKE(st_shape_object) { s_file(b, "{" T("a", "U8", "{\"0\":1}", "[0,1]") "}", 1); }
MAKE(st_shape_negative) { s_file(b, "{" T("a", "U8", "[-1,-1]", "[0,1]") "}", 1); }
MAKE(st_shape_float) { s_file(b, "{" T("a", "U8", "[1.0]", "[0,1]") "}", 1); }
MAKE(st_shape_nested) { s_file(b, "{" T("a", "U8", "[[1]]", "[0,1]") "}", 1); }
MAKE(st_shape_2_64) { s_file(b, "{" T("a", "U8", "[18446744073709551616]", "[0,1]") "}", 1); }
MAKE(st_shape_product) { s_file(b, "{" T("a", "U8", "[4294967296,4294967297]", "[0,0]") "}", 0); } /* the safetensors-cpp PoC */
MAKE(st_shape_product_0) { s_file(b, "{" T("a", "U8", "[4294967296,4294967296,0]", "[0,0]") "}", 0); }
MAKE(st_bytes_wrap) { s_file(b, "{" T("a", "F64", "[2305843009213693952]", "[0,0]") "}", 0); }
MAKE(st_half_byte) { s_file(b, "{" T("a", "F4", "[3]", "[0,1]") "}", 1); }
MAKE(st_six_bits) { s_file(b, "{" T("a", "F6_E2M3", "[2]", "[0,1]") "}", 1); }
MAKE(st_dims_5) { s_file(b, "{" T("a", "U8", "[1,1,1,1,1]", "[0,1]") "}", 1); }
MAKE(st_no_offsets) { s_file(b, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1); }
MAKE(st_offsets_1) { s_file(b, "{" T("a", "U8", "[1]", "[1]") "}", 1); }
MAKE(st_offsets_3) { s_file(b, "{" T("a", "U8", "[1]", "[0,1,2]") "}", 1); }
MAKE(st_offsets_text) { s_file(b, "{" T("a", "U8", "[1]", "[\"0\",\"1\"]") "}", 1); }
MAKE(st_offsets_negative) { s_file(b, "{" T("a", "U8", "[1]", "[-1,0]") "}", 1); }
MAKE(st_offsets_swapped) { s_file(b, "{" T("a", "U8", "[1]", "[1,0]") "}", 1); }
MAKE(st_offsets_swapped_0) { s_file(b, "{" T("a", "U8", "[0]", "[1,0]") "}", 1); }
MAKE(st_size_wrong) { s_file(b, "{" T("a", "F32", "[2]", "[0,4]") "}", 4); }
MAKE(st_offsets_max) { s_file(b, "{" T("a", "U8", "[1]", "[18446744073709551614,18446744073709551615]") "}", 1); }
MAKE(st_overlap) { s_file(b, "{" T("a", "U8", "[2]", "[0,2]") "," T("b", "U8", "[2]", "[1,3]") "}", 3); }
MAKE(st_same_place) { s_file(b, "{" T("a", "U8", "[2]", "[0,2]") "," T("b", "U8", "[2]", "[0,2]") "}", 2); }
MAKE(st_hole_first) { s_file(b, "{" T("a", "U8", "[1]", "[1,2]") "}", 2); }
MAKE(st_hole_between) { s_file(b, "{" T("a", "U8", "[1]", "[0,1]") "," T("b", "U8", "[1]", "[2,3]") "}", 3); }
MAKE(st_data_cut) { s_file(b, "{" T("a", "U8", "[4]", "[0,4]") "}", 3); }
MAKE(st_data_more) { s_file(b, "{" T("a", "U8", "[4]", "[0,4]") "}", 5); } /* polyglots hide here */
MAKE(st_no_tensors_data) { s_file(b, "{}", 5); }
MAKE(st_deep)
{
    struct buf header = {NULL, 0, 0};
    b_raw(&header, "{\"a\":", 5);
    for (int i = 0; i < 100000; i++)
        b_u8(&header, '[');
    b_u8(&header, 0);
    s_file(b, (const char *)header.data, 0);
    b_free(&header);
}
MAKE(st_control) { s_file(b, "{" T("a\n", "U8", "[1]", "[0,1]") "}", 1); }
MAKE(st_surrogate) { s_file(b, "{" T("\\ud800", "U8", "[1]", "[0,1]") "}", 1); }
MAKE(st_name_zero_byte) { s_file(b, "{" T("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1); }
MAKE(st_one_name_twice) { s_file(b, "{" T("model.norm.weight", "U8", "[1]", "[0,1]") "," T("output_norm.weight", "U8", "[1]", "[1,2]") "}", 2); }
MAKE(st_offsets_leading_0) { s_file(b, "{" T("a", "U8", "[01]", "[0,1]") "}", 1); }
MAKE(st_comment) { s_file(b, "{/**/}", 0); }

#define FORMAT(name, words) {#name, make_##name, SFFN_ERR_FORMAT, words}
#define UNSUPPORTED(name, words) {#name, make_##name, SFFN_ERR_UNSUPPORTED, words}

const struct bad_file bad_files[] = {
    FORMAT(three_bytes, "neither a GGUF nor a safetensors"),
    FORMAT(only_magic, "offset 0: header: 24 bytes expected, 4 left"),
    FORMAT(short_header, "offset 0: header: 24 bytes expected, 23 left"),
    FORMAT(wrong_magic, "offset 0: neither"),
    FORMAT(version_0, "offset 4: GGUF version 0"),
    UNSUPPORTED(version_1, "offset 4: GGUF version 1"),
    UNSUPPORTED(version_4, "offset 4: GGUF version 4"),
    UNSUPPORTED(big_endian, "offset 4: a big-endian file"),
    FORMAT(n_tensors_max, "offset 8: 18446744073709551615 tensors, larger than the file allows"),
    FORMAT(n_tensors_negative, "offset 8: 9223372036854775808 tensors"),
    FORMAT(n_tensors_product, "offset 8: "),
    FORMAT(n_keys_max, "offset 16: 18446744073709551615 keys, larger than the file allows"),
    FORMAT(n_keys_product, "offset 16: "),
    FORMAT(n_keys_one_too_many, "offset 16: 2 keys"),
    FORMAT(n_tensors_after_keys, "offset 8: 2 tensors, larger"),
    FORMAT(key_length_max, "offset 24: key: a length of 18446744073709551615, but 32 bytes are left"),
    FORMAT(key_length_beyond, "offset 24: key: a length of 33"),
    FORMAT(key_empty, "offset 24: key: 0 bytes"),
    FORMAT(key_zero_byte, "offset 32: key 'a?b' has a zero byte"),
    FORMAT(key_not_utf8, "offset 32: key 'a?\?' is not UTF-8"),
    FORMAT(key_too_long, "offset 24: key: 65536 bytes"),
    FORMAT(key_twice, "key 'a' appears twice"),
    FORMAT(type_13, "offset 33: key 'a': type 13 is unknown"),
    FORMAT(type_max, "type 4294967295 is unknown"),
    FORMAT(scalar_cut, "offset 39: abc: 8 bytes expected, 4 left"),
    FORMAT(string_length_max, "offset 37: a: a length of 18446744073709551615"),
    FORMAT(string_length_negative, "a length of 9223372036854775808"),
    FORMAT(string_length_beyond, "a length of 17, but 16 bytes are left"),
    FORMAT(bool_2, "offset 39: key 'abc': 2 is no boolean"),
    FORMAT(bools_2, "offset 51: key 'a': 2 is no boolean"),
    FORMAT(array_type_13, "offset 37: key 'a': element type 13 is unknown"),
    FORMAT(array_count_max, "offset 41: key 'a': 18446744073709551615 elements, larger than the file allows"),
    FORMAT(array_count_product, "offset 41: key 'a': 2305843009213693952 elements"),
    FORMAT(array_count_2_63, "9223372036854775808 elements"),
    FORMAT(array_count_beyond, "9 elements, larger"),
    FORMAT(strings_count_beyond, "3 elements, larger"),
    FORMAT(strings_count_2_61, "2305843009213693952 elements, larger"),
    FORMAT(strings_length_max, "offset 57: a: a length of 18446744073709551615"),
    FORMAT(arrays_too_deep, "arrays nested too deeply"),
    FORMAT(nested_count_max, "9223372036854775808 elements, larger"),
    FORMAT(nested_arrays_count, "elements, larger"),
    FORMAT(alignment_0, "general.alignment is 0"),
    FORMAT(alignment_3, "general.alignment is 24, expected a power of two"),
    FORMAT(alignment_2_31, "general.alignment is 2147483648"),
    FORMAT(alignment_u64, "general.alignment has type 10"),
    FORMAT(alignment_text, "general.alignment has type 8"),
    FORMAT(architecture_int, "general.architecture is no string"),
    FORMAT(architecture_empty, "general.architecture is no string of 1"),
    FORMAT(architecture_long, "general.architecture is no string of 1 to 63"),
    FORMAT(blocks_float, "key 'llama.block_count' is no size"),
    FORMAT(blocks_negative, "key 'llama.block_count' is no size"),
    FORMAT(blocks_2_40, "key 'llama.block_count' is no size"),
    FORMAT(blocks_2_64, "key 'llama.block_count' is no size"),
    FORMAT(d_ff_texts, "key 'llama.feed_forward_length' is no size"),
    FORMAT(eps_text, "key 'llama.attention.layer_norm_rms_epsilon' is no finite float"),
    FORMAT(theta_nan, "key 'llama.rope.freq_base' is no finite float"),
    FORMAT(theta_huge, "key 'llama.rope.freq_base' is no finite float"),
    FORMAT(activation_int, "key 'sffn.activation' is no string"),
    FORMAT(activation_array, "key 'sffn.activation' is no string"),
    FORMAT(threshold_negative, "sffn.act_threshold is negative"),
    FORMAT(threshold_missing, "there is no sffn.act_threshold"),
    FORMAT(threshold_int, "key 'sffn.act_threshold' is no finite float"),
    FORMAT(tie_7, "sffn.act_tie is no tie rule"),
    UNSUPPORTED(split_file, "one part of a split GGUF file"),
    FORMAT(tensor_name_empty, "offset 24: tensor name: 0 bytes"),
    FORMAT(tensor_name_long, "offset 24: tensor name: 256 bytes"),
    FORMAT(tensor_name_length_max, "offset 24: tensor name: a length of 18446744073709551615"),
    FORMAT(tensor_name_zero_byte, "tensor name 'a?' has a zero byte"),
    FORMAT(tensor_name_not_utf8, "tensor name '?' is not UTF-8"),
    FORMAT(tensor_twice, "tensor 'a' is there twice"),
    FORMAT(dims_5, "offset 33: tensor 'a': 5 dimensions"),
    FORMAT(dims_max, "offset 33: tensor 'a': 4294967295 dimensions"),
    FORMAT(dim_0, "offset 45: tensor 'x': dimension 1 is 0"),
    FORMAT(dim_max, "offset 53: tensor 'x': dimension 2 is 18446744073709551615, larger than the file allows"),
    FORMAT(dim_negative, "offset 37: tensor 'x': dimension 0 is 9223372036854775808"),
    FORMAT(dims_product_wraps, "dimension 0 is 4294967296, larger"),
    FORMAT(dims_size_wraps, "dimension 0 is 2147483648, larger"),
    FORMAT(dims_lie, "tensor 'x' (F32): larger than the file"),
    FORMAT(row_no_block, "tensor 'x' (Q8_0): its row length is no multiple"),
    FORMAT(row_no_k_block, "tensor 'x' (Q4_K): its row length is no multiple"),
    FORMAT(scalar_of_blocks, "tensor 'x' (Q4_0): its row length is no multiple"),
    UNSUPPORTED(tensor_type_4, "offset 45: tensor 'x': type 4 is a removed one"),
    UNSUPPORTED(tensor_type_31, "type 31 is a removed one"),
    UNSUPPORTED(tensor_type_43, "type 43 is newer"),
    UNSUPPORTED(tensor_type_max, "type 4294967295 is newer"),
    FORMAT(offset_not_0, "offset 49: tensor 'x': data offset 32, expected 0"),
    FORMAT(offset_unaligned, "tensor 'y': data offset 33, expected 32"),
    FORMAT(offset_overlap, "tensor 'y': data offset 0, expected 32"),
    FORMAT(offset_hole, "tensor 'y': data offset 64, expected 32"),
    FORMAT(offset_max, "tensor 'y': data offset 18446744073709551584, expected 32"),
    FORMAT(data_missing, "tensor 'x': 32 bytes of data expected, the file ends at"),
    FORMAT(data_cut, "tensor 'x': 32 bytes of data expected"),
    FORMAT(second_data_cut, "tensor 'y': 32 bytes of data expected"),
    FORMAT(sum_of_sizes, "tensor 'z': 128 bytes of data expected"),
    FORMAT(info_cut, "tensor: 8 bytes expected, 3 left"),
    FORMAT(alignment_past_end, "tensor 'x': 32 bytes of data expected, the file ends at"),
    FORMAT(st_short, "neither"),
    FORMAT(st_only_length, "neither"),
    FORMAT(st_length_max, "a header of 18446744073709551615 bytes"),
    FORMAT(st_length_100m, "a header of 100000001 bytes, at most 100000000"),
    FORMAT(st_length_beyond, "a header of 3 bytes, but 2 are left"),
    FORMAT(st_length_0, "offset 8: the header does not start"),
    FORMAT(st_leading_space, "neither"),
    FORMAT(st_array, "neither"),
    FORMAT(st_cut_json, "JSON: expected a key, but the text ends"),
    FORMAT(st_garbage_after, "offset 10: JSON: expected the end of the text, found 'x'"),
    FORMAT(st_two_objects, "offset 10: JSON: expected the end of the text"),
    FORMAT(st_zero_padding, "JSON: expected the end of the text, found '?'"),
    FORMAT(st_not_utf8, "offset 11: JSON: invalid UTF-8"),
    FORMAT(st_twice, "key 'a' appears twice"),
    FORMAT(st_twice_escaped, "key 'a' appears twice"),
    FORMAT(st_field_twice, "key 'dtype' appears twice"),
    FORMAT(st_metadata_list, "__metadata__ is no object"),
    FORMAT(st_metadata_int, "a value of __metadata__ is no string"),
    FORMAT(st_metadata_zero_byte, "key 'a?' has a zero byte"),
    FORMAT(st_tensor_int, "tensor 'a': its description is no object"),
    FORMAT(st_no_dtype, "tensor 'a': no dtype"),
    FORMAT(st_dtype_int, "tensor 'a': no dtype"),
    FORMAT(st_dtype_unknown, "dtype 'F31' is unknown"),
    FORMAT(st_no_shape, "tensor 'a': no shape"),
    FORMAT(st_shape_object, "tensor 'a': no shape"),
    FORMAT(st_shape_negative, "tensor 'a': its shape has something else than sizes"),
    FORMAT(st_shape_float, "tensor 'a': its shape has something else than sizes"),
    FORMAT(st_shape_nested, "tensor 'a': its shape has something else than sizes"),
    FORMAT(st_shape_2_64, "tensor 'a': its shape has something else than sizes"),
    FORMAT(st_shape_product, "tensor 'a': dimension 1 is 4294967297: the product overflows"),
    FORMAT(st_shape_product_0, "the product overflows"),
    FORMAT(st_bytes_wrap, "tensor 'a': its size overflows"),
    FORMAT(st_half_byte, "tensor 'a': its size is no whole number of bytes"),
    FORMAT(st_six_bits, "tensor 'a': its size is no whole number of bytes"),
    UNSUPPORTED(st_dims_5, "tensor 'a' has 5 dimensions"),
    FORMAT(st_no_offsets, "tensor 'a': data_offsets is no pair of sizes"),
    FORMAT(st_offsets_1, "tensor 'a': data_offsets is no pair of sizes"),
    FORMAT(st_offsets_3, "tensor 'a': data_offsets is no pair of sizes"),
    FORMAT(st_offsets_text, "tensor 'a': data_offsets is no pair of sizes"),
    FORMAT(st_offsets_negative, "tensor 'a': data_offsets is no pair of sizes"),
    FORMAT(st_offsets_swapped, "data_offsets 1 to 0 do not hold"),
    FORMAT(st_offsets_swapped_0, "data_offsets 1 to 0 do not hold"),
    FORMAT(st_size_wrong, "data_offsets 0 to 4 do not hold the 8 bytes of its shape"),
    FORMAT(st_offsets_max, "tensor 'a': its data starts at 18446744073709551614, after a hole"),
    FORMAT(st_overlap, "tensor 'b': its data starts at 1, inside another tensor's"),
    FORMAT(st_same_place, "inside another tensor's"),
    FORMAT(st_hole_first, "tensor 'a': its data starts at 1, after a hole"),
    FORMAT(st_hole_between, "tensor 'b': its data starts at 2, after a hole"),
    FORMAT(st_data_cut, "tensor 'a': its data ends at 4 of 3 bytes"),
    FORMAT(st_data_more, "1 bytes after the last tensor"),
    FORMAT(st_no_tensors_data, "offset 10: 5 bytes after the last tensor"),
    FORMAT(st_deep, "JSON: nested too deeply"),
    FORMAT(st_control, "JSON: control character in a string"),
    FORMAT(st_surrogate, "JSON: half of a surrogate pair"),
    FORMAT(st_name_zero_byte, "tensor 'a?b' has a zero byte"),
    FORMAT(st_one_name_twice, "tensor 'output_norm.weight' is there twice, as 'model.norm.weight' and 'output_norm.weight'"),
    FORMAT(st_offsets_leading_0, "JSON: a number starts with 0"),
    FORMAT(st_comment, "JSON: expected a key, found '/'"),
};
const size_t n_bad_files = sizeof(bad_files) / sizeof(bad_files[0]);
