// A driver library for NVIDIA GPUs without a GPU, and a log of what NVRTC compiles. tests/nvrtc.sh builds and uses it.
//
// One file takes the place of two libraries:
//
// - libcuda.so: one device of compute capability HEARTH_STANDIN_SM (80 or 90). Its memory is memory of the host, its streams and events
//   are complete at once, and its kernels do nothing, so what a kernel would write stays zero.
// - libnvrtc.so: NVIDIA's NVRTC, to which this file is linked. Two of its functions are wrapped, to write a log.
//
// The log is the file HEARTH_STANDIN_LOG, with tabs between:
//
//   compiled   KERNEL  BYTES of the source  SECONDS
//   failed     KERNEL  FILE with the source and, after it, what NVRTC says
//   loaded     KERNEL  BYTES of the PTX
//   launched   KERNEL                       its first launch
#define _GNU_SOURCE
#include <ctype.h>
#include <cuda.h>
#include <dlfcn.h>
#include <nvrtc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct CUmod_st {
    char *ptx;
};

struct CUfunc_st {
    char name[256];
    atomic_flag launched;
};

__attribute__((format(printf, 1, 2))) static void report(const char *format, ...) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const char *path = getenv("HEARTH_STANDIN_LOG");
    if (!path) return;
    pthread_mutex_lock(&lock);
    FILE *file = fopen(path, "a");
    if (file) {
        va_list arguments;
        va_start(arguments, format);
        vfprintf(file, format, arguments);
        va_end(arguments);
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
}

// ---- NVRTC ----

static void *real(const char *name) {
    void *library = dlopen(REAL_NVRTC, RTLD_NOW);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "stand-in: %s has no %s\n", REAL_NVRTC, name);
        abort();
    }
    return function;
}

// Each thread compiles a program right after it creates it.
static _Thread_local char *source;

nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *text, const char *name, int count, const char *const *headers,
                               const char *const *names) {
    free(source);
    source = strdup(text);
    typeof(nvrtcCreateProgram) *create = real("nvrtcCreateProgram");
    return create(program, text, name, count, headers, names);
}

// The name after `__global__ void __launch_bounds__(N)` and the like.
static void kernel_of(const char *text, char *name, size_t size) {
    snprintf(name, size, "unknown");
    const char *at = strstr(text, "__global__");
    if (!at) return;
    at += strlen("__global__");
    while (*at) {
        while (*at && !isalpha((unsigned char)*at) && *at != '_') at++;
        size_t length = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
        const char *after = at + length + strspn(at + length, " \n");
        if (*after == '(' && strncmp(at, "__", 2) != 0) {
            snprintf(name, size, "%.*s", (int)length, at);
            return;
        }
        at = *after == '(' ? after + strcspn(after, ")") : after;
    }
}

static void keep_failure(nvrtcProgram program, const char *kernel) {
    static atomic_int count;
    char path[4096];
    snprintf(path, sizeof path, "%s-%d.cu", getenv("HEARTH_STANDIN_LOG") ?: "failed", ++count);
    size_t size = 0;
    nvrtcGetProgramLogSize(program, &size);
    char *text = calloc(size + 1, 1);
    nvrtcGetProgramLog(program, text);
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%s\n/* NVRTC:\n%s*/\n", source, text);
        fclose(file);
    }
    free(text);
    report("failed\t%s\t%s\n", kernel, path);
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *options) {
    struct timespec start, end;
    char kernel[256];
    kernel_of(source, kernel, sizeof kernel);
    typeof(nvrtcCompileProgram) *compile = real("nvrtcCompileProgram");
    clock_gettime(CLOCK_MONOTONIC, &start);
    nvrtcResult result = compile(program, count, options);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (result == NVRTC_SUCCESS)
        report("compiled\t%s\t%zu\t%.3f\n", kernel, strlen(source),
               (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    else
        keep_failure(program, kernel);
    return result;
}

// ---- The device ----

static int capability(void) {
    const char *text = getenv("HEARTH_STANDIN_SM");
    return text ? atoi(text) : 80;
}

CUresult cuInit(unsigned int flags) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = "an error of the stand-in";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }

CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    snprintf(name, (size_t)size, "stand-in of sm_%d", capability());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *name, int size, CUdevice device) { return CUDA_ERROR_NOT_SUPPORTED; }

// An A100 and an H100, each with 40 GB.
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    *bytes = (size_t)40 << 30;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    int is_hopper = capability() >= 90;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = capability() / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = capability() % 10; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = is_hopper ? 132 : 108; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = (is_hopper ? 227 : 163) << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
    default: fprintf(stderr, "stand-in: no attribute %d\n", attribute); return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

// A handle that is only compared with null.
static char handle;

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = (CUcontext)&handle;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }

// ---- Streams and events ----

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    *stream = (CUstream)&handle;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream stream) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) { return CUDA_SUCCESS; }

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    *event = (CUevent)&handle;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) { return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent event) { return CUDA_SUCCESS; }

// Long enough that no measurement is repeated because it is too short.
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    *milliseconds = 25;
    return CUDA_SUCCESS;
}

// ---- Memory: pages that are zero until they are written. The first page of an allocation holds its size. ----

enum { PAGE = 4096 };

static void *allocate(size_t bytes) {
    size_t size = bytes + PAGE;
    size_t *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    *pages = size;
    return (char *)pages + PAGE;
}

static void release(void *memory) {
    size_t *pages = (size_t *)((char *)memory - PAGE);
    munmap(pages, *pages);
}

CUresult cuMemAlloc(CUdeviceptr *memory, size_t bytes) {
    *memory = (CUdeviceptr)allocate(bytes);
    return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemAllocAsync(CUdeviceptr *memory, size_t bytes, CUstream stream) { return cuMemAlloc(memory, bytes); }

CUresult cuMemAllocHost(void **memory, size_t bytes) {
    *memory = allocate(bytes);
    return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree(CUdeviceptr memory) {
    release((void *)memory);
    return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr memory, CUstream stream) { return cuMemFree(memory); }

CUresult cuMemFreeHost(void *memory) {
    release(memory);
    return CUDA_SUCCESS;
}

// Whether the device holds more than what kernels are launched with, as soon as there is a model.
static atomic_bool is_filled;

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    if (bytes > 16384) is_filled = true;
    memcpy((void *)to, from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    memmove((void *)to, (void *)from, bytes);
    return CUDA_SUCCESS;
}

// hearth opens a device with a test kernel, whose sum has to be 8 e. A number that is read before there is a model is this sum.
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    static const float sum = 21.746254f;
    memcpy(to, bytes == sizeof sum && !is_filled ? (const void *)&sum : (void *)from, bytes);
    return CUDA_SUCCESS;
}

// Between the host and the device, of which one side is contiguous. Offsets and arrays are not used.
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream) {
    const char *from = copy->srcMemoryType == CU_MEMORYTYPE_HOST ? copy->srcHost : (const char *)copy->srcDevice;
    char *to = copy->dstMemoryType == CU_MEMORYTYPE_HOST ? copy->dstHost : (char *)copy->dstDevice;
    for (size_t row = 0; row < copy->Height; row++)
        memcpy(to + row * copy->dstPitch, from + row * copy->srcPitch, copy->WidthInBytes);
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *memory, const cuuint64_t *shape,
                                const cuuint64_t *strides, const cuuint32_t *tile, const cuuint32_t *element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
    memset(map, 0, sizeof *map);
    return CUDA_SUCCESS;
}

// ---- Kernels ----

CUresult cuModuleLoadData(CUmodule *module, const void *ptx) {
    *module = malloc(sizeof **module);
    (*module)->ptx = strdup(ptx);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    char entry[300];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (!strstr(module->ptx, entry)) return CUDA_ERROR_NOT_FOUND;
    *function = calloc(1, sizeof **function);
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    report("loaded\t%s\t%zu\n", name, strlen(module->ptx));
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) { return CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
                        unsigned int block_y, unsigned int block_z, unsigned int shared, CUstream stream, void **arguments,
                        void **extra) {
    if (!atomic_flag_test_and_set(&function->launched)) report("launched\t%s\n", function->name);
    // cubecl measures what a device can do with the clock of the host, and repeats until a launch takes 20 ms.
    if (strstr(function->name, "_throughput_")) usleep(21000);
    return CUDA_SUCCESS;
}
