/* libcuda.so.1 as far as `deployer` uses it: memory is the machine's own, a slow or wrong card is what the
   description that STAGE_HOST names says. `"cuda"` lists the devices; with MIG that is the first slice only. */
#include "json.h"

#include <stdint.h>
#include <time.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    PEER_ACCESS_UNSUPPORTED = 217,
    PEER_ACCESS_ALREADY_ENABLED = 704,
};

#define DEVICES 64

struct context {
    int held, peers[DEVICES];
};

static int started;
static struct context contexts[DEVICES];
static __thread struct context *current;

static const struct value *cuda(int device) { return item(find(find(host(), "cuda"), "devices"), device); }

#define BEGIN(device)                                                                                                \
    do {                                                                                                             \
        int error = started ? refused(device, __func__) : NOT_INITIALIZED;                                           \
        if (error)                                                                                                   \
            return error;                                                                                            \
    } while (0)
#define BEGIN_HERE()                                                                                                 \
    BEGIN(current ? cuda((int)(current - contexts)) : NULL);                                                         \
    do {                                                                                                             \
        if (!current || !current->held)                                                                              \
            return INVALID_CONTEXT;                                                                                  \
    } while (0)

static const struct {
    int code;
    const char *name, *words;
} ERRORS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "peer access is not supported between these two devices"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
     "forward compatibility was attempted on non supported HW"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

int cuGetErrorName(int code, const char **answer) {
    for (size_t n = 0; n < sizeof ERRORS / sizeof *ERRORS; n++)
        if (ERRORS[n].code == code)
            return *answer = ERRORS[n].name, SUCCESS;
    return *answer = NULL, INVALID_VALUE;
}

int cuGetErrorString(int code, const char **answer) {
    for (size_t n = 0; n < sizeof ERRORS / sizeof *ERRORS; n++)
        if (ERRORS[n].code == code)
            return *answer = ERRORS[n].words, SUCCESS;
    return *answer = NULL, INVALID_VALUE;
}

int cuInit(unsigned flags) {
    int error = flags ? INVALID_VALUE : refused(NULL, __func__);
    if (!error && !cuda(0))
        error = NO_DEVICE;
    started = !error;
    return error;
}

int cuDriverGetVersion(int *answer) { /* works before cuInit */
    int error = refused(NULL, __func__);
    *answer = (int)number(host(), "cuda_version", 0);
    return error;
}

int cuDeviceGetCount(int *answer) {
    BEGIN(NULL);
    *answer = (int)length(find(find(host(), "cuda"), "devices"));
    return SUCCESS;
}

int cuDeviceGet(int *answer, int ordinal) {
    BEGIN(cuda(ordinal));
    *answer = ordinal;
    return cuda(ordinal) ? SUCCESS : INVALID_DEVICE;
}

static int fill(const char *said, char *answer, int size) {
    if (!said || size < 1)
        return INVALID_VALUE;
    snprintf(answer, (size_t)size, "%s", said);
    return SUCCESS;
}

int cuDeviceGetName(char *answer, int size, int device) {
    BEGIN(cuda(device));
    return cuda(device) ? fill(text(cuda(device), "name"), answer, size) : INVALID_DEVICE;
}

int cuDeviceGetPCIBusId(char *answer, int size, int device) {
    BEGIN(cuda(device));
    return cuda(device) ? fill(text(cuda(device), "pci"), answer, size) : INVALID_DEVICE;
}

/* Sixteen bytes; the text is `GPU-` or `MIG-` and their digits with dashes. */
static int uuid(int device, unsigned char *answer) {
    const char *said = text(cuda(device), "uuid");
    if (!said)
        return INVALID_DEVICE;
    said += 4;
    for (int n = 0; n < 16; n++) {
        unsigned byte = 0;
        said += *said == '-';
        sscanf(said, "%2x", &byte);
        answer[n] = (unsigned char)byte;
        said += 2;
    }
    return SUCCESS;
}

int cuDeviceGetUuid(unsigned char *answer, int device) {
    BEGIN(cuda(device));
    return uuid(device, answer);
}

int cuDeviceGetUuid_v2(unsigned char *answer, int device) {
    BEGIN(cuda(device));
    return uuid(device, answer);
}

int cuDeviceTotalMem_v2(size_t *answer, int device) {
    BEGIN(cuda(device));
    *answer = (size_t)number(cuda(device), "total", 0);
    return cuda(device) ? SUCCESS : INVALID_DEVICE;
}

/* `"attributes": {"75": 9, "76": 0}`: by their numbers in cuda.h; what is not described is 0. */
int cuDeviceGetAttribute(int *answer, int attribute, int device) {
    char key[16];
    BEGIN(cuda(device));
    snprintf(key, sizeof key, "%d", attribute);
    *answer = (int)number(find(cuda(device), "attributes"), key, 0);
    return cuda(device) ? SUCCESS : INVALID_DEVICE;
}

int cuDevicePrimaryCtxRetain(struct context **answer, int device) {
    BEGIN(cuda(device));
    if (!cuda(device) || device >= DEVICES)
        return INVALID_DEVICE;
    __atomic_add_fetch(&contexts[device].held, 1, __ATOMIC_SEQ_CST);
    *answer = &contexts[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    BEGIN(cuda(device));
    if (!cuda(device) || device >= DEVICES || !contexts[device].held)
        return INVALID_CONTEXT;
    __atomic_sub_fetch(&contexts[device].held, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

int cuCtxSetCurrent(struct context *context) {
    BEGIN(NULL);
    current = context;
    return SUCCESS;
}

int cuCtxGetCurrent(struct context **answer) {
    BEGIN(NULL);
    *answer = current;
    return SUCCESS;
}

int cuCtxSynchronize(void) {
    BEGIN_HERE();
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *free_, size_t *total) {
    BEGIN_HERE();
    *free_ = (size_t)number(cuda((int)(current - contexts)), "free", 0);
    *total = (size_t)number(cuda((int)(current - contexts)), "total", 0);
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t *answer, size_t size) {
    BEGIN_HERE();
    if (!size)
        return INVALID_VALUE;
    if (size > (size_t)number(cuda((int)(current - contexts)), "free", 0))
        return OUT_OF_MEMORY;
    *answer = (uint64_t)(uintptr_t)malloc(size);
    return *answer ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t address) {
    BEGIN_HERE();
    free((void *)(uintptr_t)address);
    return SUCCESS;
}

int cuMemHostAlloc(void **answer, size_t size, unsigned flags) {
    (void)flags;
    BEGIN_HERE();
    *answer = malloc(size);
    return *answer ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFreeHost(void *address) {
    BEGIN_HERE();
    free(address);
    return SUCCESS;
}

/* `speed` in GB/s (10^9) makes a copy take as long as it should; `"corrupt": ["cuMemcpyDtoH_v2"]` spoils a bit. */
static int copy(const char *function, const char *speed, void *to, const void *from, size_t size) {
    const struct value *it = cuda((int)(current - contexts));
    struct value *most = find(it, speed);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    memmove(to, from, size);
    if (size && listed(find(it, "corrupt"), function))
        ((unsigned char *)to)[size / 2] ^= 1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double left = most ? (double)size / (most->number * 1e9) : 0;
    left -= (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
    if (left > 0)
        usleep((useconds_t)(left * 1e6));
    return SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
    BEGIN_HERE();
    return copy(__func__, "host_gb_s", (void *)(uintptr_t)to, from, size);
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
    BEGIN_HERE();
    return copy(__func__, "host_gb_s", to, (const void *)(uintptr_t)from, size);
}

int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t size) {
    BEGIN_HERE();
    return copy(__func__, "memory_gb_s", (void *)(uintptr_t)to, (const void *)(uintptr_t)from, size);
}

/* `"peers": [1, 2]` of a device: those whose memory it reaches. */
static int reaches(int device, int peer) {
    const struct value *said = find(cuda(device), "peers");
    for (long n = 0; n < length(said); n++)
        if (device != peer && (int)item(said, n)->number == peer)
            return 1;
    return 0;
}

int cuDeviceCanAccessPeer(int *answer, int device, int peer) {
    BEGIN(cuda(device));
    if (!cuda(device) || !cuda(peer))
        return INVALID_DEVICE;
    *answer = reaches(device, peer);
    return SUCCESS;
}

int cuCtxEnablePeerAccess(struct context *peer, unsigned flags) {
    (void)flags;
    BEGIN_HERE();
    long to = peer - contexts;
    if (to < 0 || to >= DEVICES || !reaches((int)(current - contexts), (int)to))
        return PEER_ACCESS_UNSUPPORTED;
    if (current->peers[to])
        return PEER_ACCESS_ALREADY_ENABLED;
    current->peers[to] = 1;
    return SUCCESS;
}

int cuMemcpyPeer(uint64_t to, struct context *there, uint64_t from, struct context *here, size_t size) {
    (void)there, (void)here;
    BEGIN_HERE();
    return copy(__func__, "peer_gb_s", (void *)(uintptr_t)to, (const void *)(uintptr_t)from, size);
}
