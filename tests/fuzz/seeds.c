/* Writes seeds into FOLDER/{gguf,safetensors,json,prepare,layer}: the wrong files of tests/model that
 * are small, and right ones. For whoever starts a corpus anew; tests/fuzz/corpus has these and
 * what the fuzzers found beyond them. */
#include <string.h>
#include <sys/stat.h>

#include "bad_files.h"
#include "fuzz.h"

static const char *root;

static void seed(const char *kind, const char *name, const struct buf *b, int choice)
{
    char path[1024];
    struct buf out = {NULL, 0, 0};
    snprintf(path, sizeof(path), "%s/%s", root, kind);
    mkdir(path, 0777);
    snprintf(path, sizeof(path), "%s/%s/%s", root, kind, name);
    if (choice >= 0)
        b_u8(&out, (uint8_t)choice);
    b_raw(&out, b->data, b->n);
    file_write(path, out.data, out.n);
    b_free(&out);
}

static void seed_text(const char *name, int choice, const char *text)
{
    struct buf b = {NULL, 0, 0};
    b_raw(&b, text, strlen(text));
    seed("json", name, &b, choice);
    b_free(&b);
}

/* One FFN layer of a type: gate and up [64][32 or 256], down [32 or 256][64 or 256]. */
static void typed(struct buf *b, uint32_t type, uint64_t block, uint64_t bytes, int is_embedded)
{
    const uint64_t d = block < 32 ? 32 : block, ff = block < 64 ? 64 : block,
                   size = d * ff / block * bytes;
    const uint64_t gate[] = {d, ff}, down[] = {ff, d};
    g_head(b, 3, 3 + (uint64_t)is_embedded, 2);
    g_key_text(b, "general.architecture", "llama");
    g_key_u32(b, "llama.block_count", 1);
    g_tensor(b, "blk.0.ffn_gate.weight", 2, gate, type, 0);
    g_tensor(b, "blk.0.ffn_up.weight", 2, gate, type, size);
    g_tensor(b, "blk.0.ffn_down.weight", 2, down, type, 2 * size);
    if (is_embedded)
        g_tensor(b, "token_embd.weight", 2, gate, type, 3 * size);
    b_pad(b, 32);
    b_fill(b, size * (3 + (uint64_t)is_embedded));
}

/* Blocks of 256: rows of gate, up and embedding, and a down whose transpose is two columns wide. */
static void typed_k(struct buf *b, uint32_t type, uint64_t bytes)
{
    static const uint64_t two[] = {256, 2};
    static const char *const names[] = {"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
                                        "blk.0.ffn_down.weight", "token_embd.weight"};
    g_head(b, 3, 4, 2);
    g_key_text(b, "general.architecture", "llama");
    g_key_u32(b, "llama.block_count", 1);
    for (uint64_t i = 0; i < 4; i++)
        g_tensor(b, names[i], 2, two, type, i * ((2 * bytes + 31) & ~UINT64_C(31)));
    for (int i = 0; i < 4; i++)
        b_pad(b, 32), b_fill(b, 2 * bytes);
}

/* One layer with a key and a tensor for everything that can select. */
static void selectors(struct buf *b)
{
    static const uint64_t gate[] = {32, 32}, one[] = {32, 1}, vector[] = {32};
    static const struct {
        const char *name;
        uint32_t n_dims;
        const uint64_t *ne;
        uint32_t type;
        uint64_t bytes;
    } tensors[] = {
        {"blk.0.ffn_gate.weight", 2, gate, 2, 576},
        {"blk.0.ffn_up.weight", 2, gate, 2, 576},
        {"blk.0.ffn_down_t.weight", 2, gate, 2, 576},
        {"blk.0.sffn_rule.threshold", 1, vector, 0, 128},
        {"blk.0.sffn_predictor.threshold", 1, vector, 1, 64},
        {"blk.0.sffn_router.weight", 2, one, 0, 128},
        {"blk.0.sffn_permutation", 1, vector, 26, 128},
    };
    g_head(b, 3, sizeof(tensors) / sizeof(tensors[0]), 9);
    g_key_text(b, "general.architecture", "llama");
    g_key_text(b, "sffn.activation", "relu2");
    g_key_array(b, "sffn.plan", K_STRING, 1), b_text(b, "predictor");
    g_key_array(b, "sffn.rule", K_STRING, 1), b_text(b, "abs_h");
    g_key_array(b, "sffn.rule_tie", K_STRING, 1), b_text(b, "keep");
    g_key_array(b, "sffn.predictor.kind", K_STRING, 1), b_text(b, "screened_gate");
    g_key_array(b, "sffn.predictor.threshold", K_F32, 1), b_f32(b, 0.5f);
    g_key_array(b, "sffn.router.rule", K_STRING, 1), b_text(b, "sigmoid");
    g_key_array(b, "sffn.router.block_size", K_U32, 1), b_u32(b, 32);
    uint64_t offset = 0;
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
        g_tensor(b, tensors[i].name, tensors[i].n_dims, tensors[i].ne, tensors[i].type, offset);
        offset += (tensors[i].bytes + 31) & ~UINT64_C(31);
    }
    b_pad(b, 32);
    for (size_t i = 0; i + 1 < sizeof(tensors) / sizeof(tensors[0]); i++) {
        if (tensors[i].n_dims == 2)
            b_fill(b, tensors[i].bytes);
        else /* the pattern has NaN */
            b_raw(b, (const uint8_t[128]){0}, tensors[i].bytes);
        b_pad(b, 32);
    }
    for (uint32_t i = 0; i < 32; i++)
        b_u32(b, 31 - i);
}

/* One layer whose selector is `kind`: a predictor's, or "router". f32, so that changed bytes are other weights and seldom NaN. */
static void selector_of(struct buf *b, const char *kind, const char *rule, const char *activation)
{
    static const uint64_t gate[] = {32, 64}, square[] = {32, 32}, two[] = {32, 2}, vector[] = {32};
    const int is_router = strcmp(kind, "router") == 0, is_low_rank = strcmp(kind, "low_rank") == 0,
              is_cascade = strcmp(kind, "cascade") == 0;
    static const char *const parts[] = {"ffn_gate", "ffn_up", "ffn_down_t"};
    const uint64_t matrix = 4 * 32 * 64;
    uint64_t offset = 0;
    g_head(b, 3, 3 + (is_low_rank ? 2 : is_router || is_cascade), is_router ? 10 : 14);
    g_key_text(b, "general.architecture", "llama");
    g_key_text(b, "sffn.activation", activation);
    g_key_array(b, "sffn.plan", K_STRING, 1), b_text(b, is_router ? "router" : "predictor");
    g_key_array(b, "sffn.rule", K_STRING, 1), b_text(b, rule);
    g_key_array(b, "sffn.rule_k", K_U32, 1), b_u32(b, 3);
    g_key_array(b, "sffn.rule_m", K_U32, 1), b_u32(b, 16);
    g_key_array(b, "sffn.rule_sparsity", K_F32, 1), b_f32(b, 0.75f);
    if (is_router) {
        g_key_array(b, "sffn.router.rule", K_STRING, 1), b_text(b, "top_k");
        g_key_array(b, "sffn.router.block_size", K_U32, 1), b_u32(b, 32);
        g_key_array(b, "sffn.router.top_k", K_U32, 1), b_u32(b, 1);
    } else {
        g_key_array(b, "sffn.predictor.kind", K_STRING, 1), b_text(b, kind);
        g_key_array(b, "sffn.predictor.margin", K_F32, 1), b_f32(b, 1.5f);
        g_key_array(b, "sffn.predictor.rank", K_U32, 1), b_u32(b, 32);
        g_key_array(b, "sffn.predictor.alpha", K_F32, 1), b_f32(b, 1.03f);
        g_key_array(b, "sffn.predictor.bits", K_U32, 1), b_u32(b, 3);
        g_key_array(b, "sffn.predictor.step_bits", K_U32, 1), b_u32(b, 2);
        g_key_array(b, "sffn.predictor.column_share", K_F32, 1), b_f32(b, 0.5f);
    }
    for (size_t i = 0; i < 3; i++, offset += matrix) {
        char name[64];
        snprintf(name, sizeof(name), "blk.0.%s.weight", parts[i]);
        g_tensor(b, name, 2, gate, 0, offset);
    }
    if (is_router)
        g_tensor(b, "blk.0.sffn_router.weight", 2, two, 0, offset);
    if (is_cascade)
        g_tensor(b, "blk.0.sffn_predictor.input_mean", 1, vector, 0, offset);
    if (is_low_rank) {
        g_tensor(b, "blk.0.sffn_predictor_w1.weight", 2, square, 0, offset);
        g_tensor(b, "blk.0.sffn_predictor_w2.weight", 2, gate, 0, offset + matrix / 2);
    }
    b_pad(b, 32);
    const uint64_t last = is_low_rank  ? matrix * 3 / 2
                          : is_router  ? 4 * 64
                          : is_cascade ? 4 * 32
                                       : 0;
    for (uint64_t i = 0; i < (3 * matrix + last) / 4; i++)
        b_f32(b, (float)(i * 2654435761u >> 16 & 255) / 128 - 1);
}

/* PowerInfer's: another magic, and a predictor of rank 32. */
static void powerinfer(struct buf *b)
{
    static const uint64_t square[] = {32, 32};
    static const char *const parts[] = {"ffn_gate", "ffn_up", "ffn_down_t", "fc1", "fc2"};
    g_head(b, 3, 5, 2);
    memcpy(b->data, "PWRI", 4);
    g_key_text(b, "general.architecture", "llama");
    g_key_f32(b, "powerinfer.sparse_threshold", 0.5f);
    for (uint64_t i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.0.%s.weight", parts[i]);
        g_tensor(b, name, 2, square, 2, i * 576);
    }
    b_pad(b, 32);
    b_fill(b, 5 * 576);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return fprintf(stderr, "usage: seeds FOLDER\n"), 2;
    root = argv[1];
    mkdir(root, 0777);
    for (size_t i = 0; i < n_bad_files; i++) {
        struct buf b = {NULL, 0, 0};
        bad_files[i].make(&b);
        if (b.n <= 2048)
            seed(strncmp(bad_files[i].name, "st_", 3) == 0 ? "safetensors" : "gguf",
                 bad_files[i].name, &b, -1);
        b_free(&b);
    }
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t block, bytes;
    } types[] = {{"bf16", 30, 1, 2},  {"q4_0", 2, 32, 18}, {"q8_0", 8, 32, 34},
                 {"q4_1", 3, 32, 20}, {"q5_0", 6, 32, 22}, {"q5_1", 7, 32, 24}};
    struct buf b = {NULL, 0, 0};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        for (int choice = 0; choice < 6; choice++) {
            char name[64];
            snprintf(name, sizeof(name), "%s-%d", types[i].name, choice);
            if (choice != (int)i && choice != (int)(i + 1) % 6)
                continue;
            typed(&b, types[i].type, types[i].block, types[i].bytes, 0);
            seed("prepare", name, &b, choice);
            b_free(&b);
        }
    }
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t bytes;
    } k_types[] = {{"q4_k", 12, 144}, {"q5_k", 13, 176}, {"q6_k", 14, 210}};
    for (size_t i = 0; i < sizeof(k_types) / sizeof(k_types[0]); i++) {
        for (int choice = 0; choice <= 24; choice += 24) {
            char name[64];
            snprintf(name, sizeof(name), "%s-%d", k_types[i].name, choice);
            typed_k(&b, k_types[i].type, k_types[i].bytes);
            seed("prepare", name, &b, choice + (int)i);
            b_free(&b);
        }
    }
    selectors(&b), seed("gguf", "selectors", &b, -1), seed("prepare", "selectors", &b, 0),
        seed("prepare", "selectors-24", &b, 24), b_free(&b);
    static const struct {
        const char *kind, *rule, *activation;
    } layers[] = {
        {"screened_gate", "none", "relu"},         {"low_rank", "top_k_h", "silu"},
        {"gate_svd", "block_top_k_score", "relu"}, {"sign", "statistical_h", "relu2"},
        {"cascade", "block_top_k_h", "relu"},      {"router", "statistical_score", "gelu_tanh"}};
    for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
        selector_of(&b, layers[i].kind, layers[i].rule, layers[i].activation);
        seed("layer", layers[i].kind, &b, -1);
        b_free(&b);
    }
    selectors(&b), seed("layer", "selectors", &b, -1), b_free(&b);
    powerinfer(&b), seed("layer", "powerinfer", &b, -1), b_free(&b);
    powerinfer(&b), seed("gguf", "powerinfer", &b, -1), seed("prepare", "powerinfer", &b, 24),
        b_free(&b);
    g_valid(&b), b.n = b.n > 4096 ? 4096 : b.n, seed("gguf", "valid_cut", &b, -1), b_free(&b);
    s_valid(&b), seed("safetensors", "valid", &b, -1), seed("prepare", "safetensors", &b, 0),
        b_free(&b);
    static const uint64_t ne[4] = {32, 2, 1, 1};
    for (uint32_t type = 0; type < 43; type++) {
        /* one tensor of every type, some bytes of data */
        char name[32];
        snprintf(name, sizeof(name), "type_%u", (unsigned)type);
        g_head(&b, 3, 1, 1), g_key_u32(&b, "general.alignment", 8),
            g_tensor(&b, "t", 2, ne, type, 0), b_pad(&b, 8), b_fill(&b, 512);
        seed("gguf", name, &b, -1);
        b_free(&b);
    }
    static const char *const texts[] = {
        ("{\"a\":[1,-2.5e+3,true,false,null],\"b\\ud83d\\ude00\":"
         "\"\xc3\xa4\\n\",\"c\":{\"d\":[[],{}]}}"),
        "[1e308,5e-324,0.1,12345678901234567890,-0,1E+2]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20ac\"",
        "{\"a\":1,\"a\":2}",
        "[[[[[[[[[[]]]]]]]]]]",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char name[32];
        snprintf(name, sizeof(name), "text_%zu", i);
        seed_text(name, 0, texts[i]);
    }
    seed_text("config_llama", 1,
              "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":"
              "\"relu\",\"hidden_size\":512,\"intermediate_size\":2304,"
              "\"num_hidden_layers\":6,\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_"
              "dim\":64,\"vocab_size\":8192,"
              "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_"
              "word_embeddings\":true,\"bos_token_id\":0}");
    seed_text("config_sparse", 1,
              "{\"model_type\":\"sparsellama\",\"hidden_act\":\"fatrelu\",\"hidden_act_param\":0."
              "01,\"rope_parameters\":{\"rope_theta\":1e4}}");
    seed_text("config_opt", 1,
              "{\"model_type\":\"opt\",\"activation_function\":\"relu\",\"ffn_dim\":64,\"nested\":{"
              "\"a\":{\"b\":[1,2]}},\"x\":null}");
    seed_text("index", 2,
              "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":"
              "\"two.safetensors\",\"c\":\"one.safetensors\"}}");
    seed_text("index_bad", 2, "{\"weight_map\":{\"a\":\"../one.safetensors\"}}");
    seed_text("tokenizer_bytes", 3 + 4 * 8,
              "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},{\"id\":5,"
              "\"content\":\"u\",\"special\":false}],"
              "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true},\"post_"
              "processor\":null,\"bos_token_id\":0,\"eos_token_id\":[1,2],"
              "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3},"
              "\"merges\":[\"a b\",[\"a \",\"b\"]]}}");
    seed_text(
        "tokenizer_fallback", 3,
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],\"add_bos_token\":"
        "true,\"add_eos_token\":false,"
        "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<"
        "unk>\":0,\"<0x41>\":1,\"a\":2,\"b\":3,\"ab\":4},\"merges\":[\"a b\"]}}");
    seed_text("tokenizer_sequence", 3,
              "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
              "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x\"},\"behavior\":"
              "\"Isolated\"},"
              "{\"type\":\"ByteLevel\",\"use_regex\":false}]},\"post_processor\":{\"type\":"
              "\"Sequence\",\"processors\":[{\"type\":\"TemplateProcessing\",\"single\":[{"
              "\"SpecialToken\":{\"id\":\"a\"}}]}]},"
              "\"model\":{\"vocab\":{\"a\":1},\"merges\":[]}}");
    return 0;
}
