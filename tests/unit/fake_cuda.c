/* A CUDA driver for tests: it computes nothing, and notes what it is asked in the file that FAKE_CUDA_LOG names.
 *
 * FAKE_CUDA_CAPABILITY is its compute capability (90), FAKE_CUDA_COUNT its number of GPUs (1), FAKE_CUDA_FAIL the name
 * of a function that fails with 700, and FAKE_CUDA_SIZES the bytes of each argument of the launches in turn, as "8 8 4;8 4". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int note(const char *function, const char *text) {
    const char *path = getenv("FAKE_CUDA_LOG"), *fails = getenv("FAKE_CUDA_FAIL");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s %s\n", function, text);
        fclose(file);
    }
    return fails && !strcmp(fails, function) ? 700 : 0;
}

static int handle; /* its address stands for every context, module and function */
static int depth;  /* contexts that were entered and not left */

int cuInit(unsigned flags) { return flags ? 1 : note("cuInit", ""); }
int cuDeviceGetCount(int *count) { return *count = number("FAKE_CUDA_COUNT", 1), note("cuDeviceGetCount", ""); }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, note("cuDeviceGet", ""); }
int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "Paper GPU %d", device);
    return note("cuDeviceGetName", "");
}
int cuDeviceGetAttribute(int *value, int which, int device) {
    int capability = number("FAKE_CUDA_CAPABILITY", 90);
    *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : -1;
    return device < 0 ? 1 : note("cuDeviceGetAttribute", "");
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &handle;
    return device < 0 ? 1 : note("cuDevicePrimaryCtxRetain", "");
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    char text[32];
    snprintf(text, sizeof text, "depth %d", depth);
    return device < 0 ? 1 : note("cuDevicePrimaryCtxRelease", text);
}
int cuCtxPushCurrent_v2(void *context) { return depth += 1, context == &handle ? note("cuCtxPushCurrent", "") : 201; }
int cuCtxPopCurrent_v2(void **context) { return depth -= 1, *context = &handle, note("cuCtxPopCurrent", ""); }
int cuModuleLoadData(void **module, const void *image) {
    *module = &handle;
    return memcmp(image, "\177ELF", 4) ? 200 : note("cuModuleLoadData", "");
}
int cuModuleUnload(void *module) { return module == &handle ? note("cuModuleUnload", "") : 1; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return note("cuModuleGetFunction", name);
}
int cuFuncSetAttribute(void *function, int which, int value) {
    char text[64];
    snprintf(text, sizeof text, "%d %d", which, value);
    return function == &handle ? note("cuFuncSetAttribute", text) : 1;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned rows, unsigned planes,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    char text[2048];
    size_t used = (size_t)snprintf(text, sizeof text, "%u %u %u block %u %u %u shared %u stream %p :", x, y, z, threads,
                                   rows, planes, shared, stream);
    static int launches;
    const char *sizes = getenv("FAKE_CUDA_SIZES");
    for (int skip = launches++; sizes && skip > 0; --skip) sizes = strchr(sizes, ';') ? strchr(sizes, ';') + 1 : NULL;
    for (int index = 0; sizes && *sizes && *sizes != ';' && used < sizeof text; ++index) {
        char *rest = NULL;
        uint64_t value = 0;
        memcpy(&value, arguments[index], (size_t)strtol(sizes, &rest, 10));
        used += (size_t)snprintf(text + used, sizeof text - used, " %llu", (unsigned long long)value);
        sizes = rest;
    }
    return function == &handle && !extra && depth > 0 ? note("cuLaunchKernel", text) : 1;
}
int cuGetErrorString(int error, const char **text) { return *text = "made to fail", error == 0; }
