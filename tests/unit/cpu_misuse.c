/* Call the C interface wrongly in every way it guards against; run under sanitizers. Prints what failed. */
#include <stdio.h>
#include <string.h>

#include "model.h"

static int failures;

static void expect(const char *what, int found, int wanted) {
    if (found != wanted) {
        printf("%s: status %d, expected %d\n", what, found, wanted);
        failures++;
    }
}

int main(int count, char **words) {
    model_t *model = NULL;
    model_session_t *session = NULL;
    char message[8];
    int64_t ids[6] = {0, 1, 2, 3, 4, 5};
    float x[6 * 16] = {0}, y[6 * 16];
    if (count != 2) return 2;

    expect("open NULL", model_open(NULL, &model, message, sizeof message), MODEL_FILE);
    expect("open to NULL", model_open(words[1], NULL, NULL, 0), MODEL_ARGUMENT);
    expect("open nothing", model_open("/nonexistent", &model, message, sizeof message), MODEL_FILE);
    expect("message ends", (int)strlen(message) < (int)sizeof message, 1);
    expect("open a folder", model_open("/", &model, NULL, 0), MODEL_FILE);
    expect("open on unknown pages", model_open_pages(words[1], 7, &model, NULL, 0), MODEL_ARGUMENT);
    expect("open nothing on 2 MB pages", model_open_pages("/nonexistent", MODEL_PAGES_HUGE, &model, NULL, 0), MODEL_FILE);
    expect("open on 2 MB pages", model_open_pages(words[1], MODEL_PAGES_HUGE, &model, NULL, 0), MODEL_OK);
    model_close(model);
    expect("pages of no model", model_pages(NULL), MODEL_PAGES_MAPPED);
    expect("open", model_open(words[1], &model, NULL, 0), MODEL_OK);
    expect("pages by default", model_pages(model), MODEL_PAGES_MAPPED);
    expect("no threads", model_session_create(model, 0, &session), MODEL_ARGUMENT);
    expect("no model", model_session_create(NULL, 1, &session), MODEL_ARGUMENT);
    expect("no place", model_session_create(model, 1, NULL), MODEL_ARGUMENT);
    expect("create", model_session_create(model, 2, &session), MODEL_OK);

    model_tensor in[2] = {
        {.data = x, .bytes = sizeof x, .dtype = MODEL_F32, .rank = 2, .shape = {6, 16}},
        {.data = ids, .bytes = sizeof ids, .dtype = MODEL_I64, .rank = 1, .shape = {6}},
    };
    model_tensor out[1] = {{.data = y, .bytes = sizeof y, .dtype = MODEL_F32}};
    model_tensor good[2], sink[1];
    memcpy(good, in, sizeof in);
    memcpy(sink, out, sizeof out);

    expect("good run", model_run(session, in, 2, out, 1), MODEL_OK);
    expect("no session", model_run(NULL, in, 2, out, 1), MODEL_ARGUMENT);
    expect("no inputs", model_run(session, NULL, 2, out, 1), MODEL_ARGUMENT);
    expect("no outputs", model_run(session, in, 2, NULL, 1), MODEL_ARGUMENT);
    expect("few inputs", model_run(session, in, 1, out, 1), MODEL_ARGUMENT);
    expect("many outputs", model_run(session, in, 2, out, 2), MODEL_ARGUMENT);
    expect("shapes to NULL", model_output_shapes(session, in, 2, NULL, 1), MODEL_ARGUMENT);

#define WITH(label, change, wanted)                                   \
    do {                                                              \
        memcpy(in, good, sizeof in);                                  \
        memcpy(out, sink, sizeof out);                                \
        change;                                                       \
        expect(label, model_run(session, in, 2, out, 1), wanted);     \
        if (model_error(session)[0] == 0) failures++, puts(label ": no message"); \
    } while (0)
    WITH("null data", in[0].data = NULL, MODEL_ARGUMENT);
    WITH("null output", out[0].data = NULL, MODEL_ARGUMENT);
    WITH("short input", in[0].bytes -= 1, MODEL_ARGUMENT);
    WITH("short output", out[0].bytes -= 1, MODEL_ARGUMENT);
    WITH("input dtype", in[1].dtype = MODEL_I32, MODEL_ARGUMENT);
    WITH("wild dtype", in[1].dtype = 77, MODEL_ARGUMENT);
    WITH("output dtype", out[0].dtype = -1, MODEL_ARGUMENT);
    WITH("rank", in[0].rank = 1, MODEL_SHAPE);
    WITH("wild rank", in[0].rank = 1000, MODEL_SHAPE);
    WITH("negative size", in[0].shape[0] = -6, MODEL_SHAPE);
    WITH("huge size", in[0].shape[0] = INT64_MAX, MODEL_SHAPE);
    WITH("large size", (in[0].shape[0] = in[1].shape[0] = INT64_C(1) << 39), MODEL_SHAPE);
    WITH("columns", in[0].shape[1] = 15, MODEL_SHAPE);
    WITH("rows differ", in[1].shape[0] = 5, MODEL_SHAPE);
    WITH("range", (in[0].shape[0] = in[1].shape[0] = 0), MODEL_SHAPE);
    WITH("token", ids[3] = 40, MODEL_INDEX);
    ids[3] = INT64_MIN;
    memcpy(in, good, sizeof in);
    expect("after a failed stateful call", model_run(session, in, 2, out, 1), MODEL_STATE);
    expect("reset", model_session_reset(session), MODEL_OK);
    WITH("smallest token", (void)0, MODEL_INDEX);
    ids[3] = 3;
    model_session_reset(session);
    expect("run again", model_run(session, good, 2, sink, 1), MODEL_OK);

    model_contract contract;
    int8_t codes[16];
    float scale;
    int32_t sums[64 * 16];
    expect("no contraction", model_contract_info(99, &contract), MODEL_ARGUMENT);
    expect("negative contraction", model_contract_info(-1, &contract), MODEL_ARGUMENT);
    expect("probe of nothing", model_contract_probe(session, 99, x, 1, codes, &scale, sums), MODEL_ARGUMENT);
    expect("probe of no rows", model_contract_probe(session, 0, x, 0, codes, &scale, sums), MODEL_ARGUMENT);
    expect("probe", model_contract_probe(session, 0, x, 1, codes, &scale, sums), MODEL_OK);
    if (model_input_name(-1) || model_input_name(2) || model_output_name(1) || model_input_dtype(9) != -1) failures++;
    model_session_destroy(session);
    model_session_destroy(NULL);
    model_close(model);
    model_close(NULL);
    printf("%d failures\n", failures);
    return failures != 0;
}
