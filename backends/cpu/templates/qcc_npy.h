/* Read and write .npy files (NumPy Enhancement Proposal 1, format versions 1 to 3), little-endian and in
 * C order. Every length is checked against the size of the file. */
#ifndef QCC_NPY_H
#define QCC_NPY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NPY_RANK 32

typedef struct {
    unsigned char *data;
    uint64_t bytes;
    char dtype[4]; /* "f4", "f2", "f8", "i8", "i4", "i1", "u1", "b1"; "u2" holds the bits of bfloat16 */
    int rank;
    int64_t shape[NPY_RANK];
} npy_array;

static const char *const npy_dtypes[] = {"f4", "f2", "u2", "i8", "i4", "i1", "u1", "b1", "f8"};
static const int npy_widths[] = {4, 2, 2, 8, 4, 1, 1, 1, 8};

static inline int npy_width(const char *dtype) {
    for (size_t i = 0; i < sizeof npy_dtypes / sizeof *npy_dtypes; i++)
        if (strcmp(dtype, npy_dtypes[i]) == 0) return npy_widths[i];
    return 0;
}

static inline void npy_free(npy_array *array) {
    free(array->data);
    array->data = NULL;
}

static inline const char *npy_parse_shape(const char *text, npy_array *array) {
    const char *at = strstr(text, "'shape'");
    uint64_t bytes = (uint64_t)npy_width(array->dtype);
    if (at == NULL || (at = strchr(at, '(')) == NULL) return "has no shape";
    array->rank = 0;
    for (at++; *at && *at != ')';) {
        if (*at < '0' || *at > '9') {
            if (*at != ' ' && *at != ',') return "has a malformed shape";
            at++;
            continue;
        }
        char *end;
        long long size = strtoll(at, &end, 10);
        if (array->rank == NPY_RANK || size < 0 || size > INT64_C(1) << 40) return "has a shape that is too large";
        if (size && bytes > (UINT64_C(1) << 46) / (uint64_t)size) return "is too large";
        bytes *= (uint64_t)size;
        array->shape[array->rank++] = size;
        at = end;
    }
    if (*at != ')') return "has a malformed shape";
    array->bytes = bytes;
    return NULL;
}

static inline const char *npy_parse_header(const char *text, npy_array *array) {
    const char *at = strstr(text, "'descr'");
    if (at == NULL || (at = strchr(at, ':')) == NULL || (at = strchr(at, '\'')) == NULL) return "has no dtype";
    at++;
    if (*at != '<' && *at != '|') return "is not little-endian";
    memcpy(array->dtype, at + 1, 2);
    array->dtype[2] = 0;
    if (at[3] != '\'' || npy_width(array->dtype) == 0) return "has a dtype that is not supported";
    if (strstr(text, "'fortran_order': False") == NULL) return "is not in C order";
    return npy_parse_shape(text, array);
}

static inline const char *npy_read_open(FILE *file, npy_array *array) {
    unsigned char head[12];
    if (fread(head, 1, 10, file) != 10 || memcmp(head, "\x93NUMPY", 6) != 0) return "is no .npy file";
    uint64_t length = head[8] | (uint64_t)head[9] << 8;
    if (head[6] >= 2) {
        if (fread(head + 10, 1, 2, file) != 2) return "is truncated";
        length |= (uint64_t)head[10] << 16 | (uint64_t)head[11] << 24;
    }
    if (head[6] < 1 || head[6] > 3 || length > 1 << 20) return "has an unknown version";
    char *text = malloc(length + 8);
    if (text == NULL) return "does not fit in memory";
    memset(text, 0, length + 8);
    const char *problem = fread(text, 1, length, file) == length ? npy_parse_header(text, array) : "is truncated";
    free(text);
    if (problem) return problem;
    array->data = malloc(array->bytes ? array->bytes : 1);
    if (array->data == NULL) return "does not fit in memory";
    if (fread(array->data, 1, array->bytes, file) != array->bytes) {
        npy_free(array);
        return "is truncated";
    }
    return NULL;
}

/* Read a file. Returns NULL, or what is wrong with it; then there is nothing to free. */
static inline const char *npy_read(const char *path, npy_array *array) {
    memset(array, 0, sizeof *array);
    FILE *file = fopen(path, "rb");
    if (file == NULL) return "cannot be opened";
    const char *problem = npy_read_open(file, array);
    fclose(file);
    return problem;
}

/* Write a file. Returns NULL, or what went wrong. */
static inline const char *npy_write(const char *path, const npy_array *array) {
    char shape[NPY_RANK * 22 + 1] = "", text[NPY_RANK * 22 + 128];
    size_t used = 0;
    for (int i = 0; i < array->rank; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%lld, ", (long long)array->shape[i]);
    char order = array->dtype[1] == '1' ? '|' : '<';
    int length = snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (%s), }", order,
                          array->dtype, shape);
    int total = (10 + length + 1 + 63) / 64 * 64, padding = total - 10 - length - 1;
    unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 0, 0};
    head[8] = (unsigned char)((total - 10) & 255);
    head[9] = (unsigned char)((total - 10) >> 8);
    FILE *file = fopen(path, "wb");
    if (file == NULL) return "cannot be written";
    int ok = fwrite(head, 1, 10, file) == 10 && fprintf(file, "%s%*s\n", text, padding, "") > 0 &&
             fwrite(array->data, 1, array->bytes, file) == array->bytes;
    return fclose(file) == 0 && ok ? NULL : "cannot be written";
}

#endif
