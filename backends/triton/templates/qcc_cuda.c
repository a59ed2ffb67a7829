#define _DEFAULT_SOURCE
#include "qcc_cuda.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used of the driver's interface, by its binary names. A CUresult of 0 is success. */
typedef void *context_t, *module_t, *function_t, *stream_t;
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, FUNCTION_DYNAMIC_SHARED = 8, SHARED_WITHOUT_ASKING = 48 * 1024 };
enum { MOST_ARGUMENTS = 64 };

typedef struct driver {
    int (*Init)(unsigned);
    int (*DeviceGetCount)(int *);
    int (*DeviceGet)(int *, int);
    int (*DeviceGetName)(char *, int, int);
    int (*DeviceGetAttribute)(int *, int, int);
    int (*DevicePrimaryCtxRetain)(context_t *, int);
    int (*DevicePrimaryCtxRelease)(int);
    int (*CtxPushCurrent)(context_t);
    int (*CtxPopCurrent)(context_t *);
    int (*ModuleLoadData)(module_t *, const void *);
    int (*ModuleUnload)(module_t);
    int (*ModuleGetFunction)(function_t *, module_t, const char *);
    int (*FuncSetAttribute)(function_t, int, int);
    int (*LaunchKernel)(function_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, stream_t,
                        void **, void **);
    int (*GetErrorString)(int, const char **);
} driver;

typedef struct loaded {
    module_t module;
    function_t function;
    uint32_t shared;
} loaded;

struct qcc_program {
    const qcc_table *table;
    void *library;
    driver cu;
    int device;
    context_t context;
    int capability; /* of the device */
    int arch;       /* of the cubins that it runs */
    char name[128];
    loaded *kernels; /* one for each variant */
};

static qcc_status fail(qcc_error *error, qcc_status status, const char *format, ...) {
    if (error) {
        va_list values;
        va_start(values, format);
        vsnprintf(error->text, sizeof error->text, format, values);
        va_end(values);
    }
    return status;
}

static qcc_status driver_error(const qcc_program *program, qcc_error *error, const char *what, int result) {
    const char *text = NULL;
    if (program->cu.GetErrorString(result, &text) || !text) text = "unknown error";
    return fail(error, QCC_DRIVER, "%s: the CUDA driver says '%s' (%d)", what, text, result);
}

static qcc_status open_driver(qcc_program *program, qcc_error *error) {
    static const char *const names[] = {
        "cuInit",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceGetAttribute",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxPushCurrent_v2",
        "cuCtxPopCurrent_v2",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuLaunchKernel",
        "cuGetErrorString",
    };
    enum { COUNT = sizeof names / sizeof *names };
    void *found[COUNT];
    _Static_assert(sizeof found == sizeof(driver), "one name for each function");
    program->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!program->library) program->library = dlopen("libcuda.so", RTLD_NOW | RTLD_LOCAL);
    if (!program->library)
        return fail(error, QCC_NO_DRIVER, "no CUDA driver: libcuda.so.1 cannot be opened; install NVIDIA's driver");
    for (int index = 0; index < COUNT; ++index) {
        found[index] = dlsym(program->library, names[index]);
        if (!found[index])
            return fail(error, QCC_NO_DRIVER, "the CUDA driver has no function %s; install a newer one", names[index]);
    }
    memcpy(&program->cu, found, sizeof found);
    return QCC_OK;
}

static qcc_status open_device(qcc_program *program, int ordinal, qcc_error *error) {
    int count = 0, major = 0, minor = 0;
    int result = program->cu.Init(0);
    if (!result) result = program->cu.DeviceGetCount(&count);
    if (result || !count) return fail(error, QCC_NO_DEVICE, "the CUDA driver finds no GPU");
    if (ordinal < 0 || ordinal >= count)
        return fail(error, QCC_NO_DEVICE, "there is no GPU %d; the driver finds %d", ordinal, count);
    result = program->cu.DeviceGet(&program->device, ordinal);
    if (!result) result = program->cu.DeviceGetName(program->name, (int)sizeof program->name, program->device);
    if (!result) result = program->cu.DeviceGetAttribute(&major, CAPABILITY_MAJOR, program->device);
    if (!result) result = program->cu.DeviceGetAttribute(&minor, CAPABILITY_MINOR, program->device);
    if (result) return driver_error(program, error, "asking the GPU what it is", result);
    program->capability = 10 * major + minor;
    return QCC_OK;
}

static int runs_on(const qcc_architecture *arch, int capability) {
    if (arch->exact) return capability == arch->capability;
    return capability / 10 == arch->capability / 10 && capability >= arch->capability;
}

/* Find the latest architecture of the program that the device runs. */
static qcc_status choose_architecture(qcc_program *program, qcc_error *error) {
    const qcc_table *table = program->table;
    char all[160] = "";
    for (uint32_t index = 0; index < table->architecture_count; ++index) {
        const qcc_architecture *arch = &table->architectures[index];
        if (runs_on(arch, program->capability) && arch->capability > program->arch) program->arch = arch->capability;
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", used ? ", " : "", arch->name);
    }
    if (program->arch) return QCC_OK;
    return fail(error, QCC_OTHER_ARCHITECTURE,
                "the kernels are compiled for %s; GPU '%s' has compute capability %d.%d and runs none of them: compile "
                "the model again with --arch sm_%d",
                all, program->name, program->capability / 10, program->capability % 10, program->capability);
}

static qcc_status read_file(const qcc_cubin *cubin, const char *folder, void **code, qcc_error *error) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, cubin->file) >= (int)sizeof path)
        return fail(error, QCC_FILE, "the path of %s is too long", cubin->file);
    FILE *file = fopen(path, "rb");
    if (!file) return fail(error, QCC_FILE, "%s cannot be opened", path);
    unsigned char *data = malloc(cubin->bytes + 1);
    size_t count = data ? fread(data, 1, cubin->bytes + 1, file) : 0;
    fclose(file);
    if (!data) return fail(error, QCC_MEMORY, "no memory for %s", path);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t index = 0; index < count; ++index) hash = (hash ^ data[index]) * 0x100000001b3u;
    if (count != cubin->bytes || hash != cubin->fnv1a) {
        free(data);
        return fail(error, QCC_FILE, "%s is not the file that was compiled: it is damaged or from another build", path);
    }
    *code = data;
    return QCC_OK;
}

static qcc_status load_variant(qcc_program *program, uint32_t index, const char *folder, qcc_error *error) {
    const qcc_variant *variant = &program->table->variants[index];
    const qcc_cubin *cubin = NULL;
    for (uint32_t each = 0; each < variant->cubin_count; ++each)
        if (variant->cubins[each].capability == program->arch) cubin = &variant->cubins[each];
    if (!cubin) return QCC_OK; /* other architectures use this variant */
    void *code = NULL;
    qcc_status status = read_file(cubin, folder, &code, error);
    if (status) return status;
    loaded *to = &program->kernels[index];
    int result = program->cu.ModuleLoadData(&to->module, code);
    free(code);
    if (result) return driver_error(program, error, cubin->file, result);
    result = program->cu.ModuleGetFunction(&to->function, to->module, variant->symbol);
    to->shared = cubin->shared;
    if (!result && to->shared > SHARED_WITHOUT_ASKING)
        result = program->cu.FuncSetAttribute(to->function, FUNCTION_DYNAMIC_SHARED, (int)to->shared);
    return result ? driver_error(program, error, cubin->file, result) : QCC_OK;
}

static qcc_status load_variants(qcc_program *program, const char *folder, qcc_error *error) {
    int result = program->cu.DevicePrimaryCtxRetain(&program->context, program->device);
    if (result) {
        program->context = NULL;
        return driver_error(program, error, "making a context", result);
    }
    result = program->cu.CtxPushCurrent(program->context);
    if (result) return driver_error(program, error, "entering the context", result);
    qcc_status status = QCC_OK;
    for (uint32_t index = 0; !status && index < program->table->variant_count; ++index)
        status = load_variant(program, index, folder, error);
    context_t left;
    program->cu.CtxPopCurrent(&left);
    return status;
}

qcc_status qcc_open(const qcc_table *table, const char *folder, int ordinal, qcc_program **program, qcc_error *error) {
    *program = NULL;
    qcc_program *made = calloc(1, sizeof *made);
    if (made) made->kernels = calloc(table->variant_count + 1, sizeof *made->kernels);
    if (!made || !made->kernels) {
        free(made);
        return fail(error, QCC_MEMORY, "no memory for a program of %u kernels", table->variant_count);
    }
    made->table = table;
    qcc_status status = open_driver(made, error);
    if (!status) status = open_device(made, ordinal, error);
    if (!status) status = choose_architecture(made, error);
    if (!status) status = load_variants(made, folder, error);
    if (status)
        qcc_close(made);
    else
        *program = made;
    return status;
}

void qcc_close(qcc_program *program) {
    if (!program) return;
    if (program->context && !program->cu.CtxPushCurrent(program->context)) {
        context_t left;
        for (uint32_t index = 0; index < program->table->variant_count; ++index)
            if (program->kernels[index].module) program->cu.ModuleUnload(program->kernels[index].module);
        program->cu.CtxPopCurrent(&left);
    }
    if (program->context) program->cu.DevicePrimaryCtxRelease(program->device);
    if (program->library) dlclose(program->library);
    free(program->kernels);
    free(program);
}

int qcc_capability(const qcc_program *program) { return program->capability; }

static const qcc_choice *choice_of(const qcc_program *program, const qcc_call *call, uint32_t tokens) {
    for (uint32_t index = 0; index < call->choice_count; ++index) {
        const qcc_choice *one = &call->choices[index];
        if (one->capability == program->arch && (!one->most_tokens || tokens <= one->most_tokens)) return one;
    }
    return NULL;
}

const qcc_variant *qcc_choose(const qcc_program *program, const qcc_call *call, uint32_t tokens) {
    const qcc_choice *one = choice_of(program, call, tokens);
    return one ? &program->table->variants[one->variant] : NULL;
}

int32_t qcc_steps(const qcc_program *program, const qcc_call *call, uint32_t tokens) {
    const qcc_choice *one = choice_of(program, call, tokens);
    return one ? one->steps : 0;
}

static qcc_status check(const qcc_kernel *kernel, const void *const *values, qcc_error *error) {
    for (uint32_t index = 0; index < kernel->argument_count; ++index) {
        const qcc_argument *one = &kernel->arguments[index];
        uint64_t wide = 0;
        uint32_t narrow = 0;
        if (one->bytes == sizeof wide)
            memcpy(&wide, values[index], sizeof wide);
        else {
            memcpy(&narrow, values[index], sizeof narrow);
            wide = narrow;
        }
        if (one->divisible && wide % 16)
            return fail(error, QCC_ARGUMENT, "%s: argument '%s' is %llu, and must be a multiple of 16", kernel->name,
                        one->name, (unsigned long long)wide);
    }
    return QCC_OK;
}

static uint32_t blocks(uint32_t total, uint32_t each) { return total / each + (total % each != 0); }

qcc_status qcc_launch(qcc_program *program, const qcc_call *call, uint32_t tokens, void *stream,
                      const void *const *values, qcc_error *error) {
    static const uint64_t null = 0;
    const qcc_kernel *kernel = call->kernel;
    uint32_t count = kernel->argument_count, scratch = program->table->scratch;
    if (count + scratch > MOST_ARGUMENTS) return fail(error, QCC_ARGUMENT, "%s has too many arguments", kernel->name);
    qcc_status status = check(kernel, values, error);
    if (status || !tokens) return status;
    const qcc_variant *variant = qcc_choose(program, call, tokens);
    if (!variant) return fail(error, QCC_ARGUMENT, "%s is not compiled for %u tokens", call->label, tokens);
    /* The driver reads the arguments and takes them without const. */
    void *given[MOST_ARGUMENTS];
    memcpy(given, values, count * sizeof *given);
    for (uint32_t index = 0; index < scratch; ++index) {
        const void *address = &null;
        memcpy(&given[count + index], &address, sizeof address);
    }
    /* Channels come first; a row-wise kernel has one program for each token. */
    uint32_t first = variant->channels ? blocks(call->n, variant->channels) : blocks(tokens, variant->tokens);
    uint32_t second = variant->channels ? blocks(tokens, variant->tokens) : 1;
    const loaded *one = &program->kernels[variant - program->table->variants];
    int result = program->cu.CtxPushCurrent(program->context);
    if (result) return driver_error(program, error, "entering the context", result);
    result = program->cu.LaunchKernel(one->function, first, second, variant->parts, variant->threads, 1, 1, one->shared,
                                      stream, given, NULL);
    context_t left;
    program->cu.CtxPopCurrent(&left);
    return result ? driver_error(program, error, variant->name, result) : QCC_OK;
}
