/* libnvidia-ml.so.1 as far as `deployer` uses it, answering from the description that STAGE_HOST names.

   Layouts and numbers are those of nvml.h, API version 13. A handle is the device's node in the description. */
#include "json.h"

#include <stdint.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
};

typedef struct value device;

static int started;

struct memory {
    uint64_t total, free, used;
};

struct memory_v2 {
    uint32_t version;
    uint64_t total, reserved, free, used;
};

struct pci {
    char legacy[16];
    uint32_t domain, bus, device, id, subsystem;
    char address[32];
};

struct process {
    uint32_t pid;
    uint64_t memory;
    uint32_t instance, compute_instance;
};

struct temperature {
    uint32_t version, sensor;
    int32_t celsius;
};

struct fabric {
    uint32_t version;
    uint8_t cluster[16];
    uint32_t status, clique, state, health_mask;
    uint8_t health;
};

/* "until": the path of a file of a device; when that is there, the card has fallen off the bus. */
static int fallen(const struct value *gpu) {
    const char *path = gpu ? text(gpu, "until") : NULL;
    return path && access(path, F_OK) == 0 ? GPU_IS_LOST : SUCCESS;
}

/* What every function of a device begins with: is the library started, does the call fail or hang? */
#define BEGIN(gpu)                                                                                                   \
    do {                                                                                                             \
        int error = started ? refused(gpu, __func__) : UNINITIALIZED;                                                \
        error = error ? error : fallen(gpu);                                                                         \
        if (error)                                                                                                   \
            return error;                                                                                            \
    } while (0)

static int fill(const char *said, char *answer, unsigned size) {
    if (!said)
        return NOT_SUPPORTED;
    if (strlen(said) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(answer, said);
    return SUCCESS;
}

/* One number of the device, or one place of a list of numbers. */
static int put(const struct value *said, uint32_t *answer) {
    if (!said)
        return NOT_SUPPORTED;
    *answer = (uint32_t)said->number;
    return SUCCESS;
}

#define NUMBER(function, key)                                                                                        \
    int function(device *gpu, uint32_t *answer) {                                                                    \
        BEGIN(gpu);                                                                                                  \
        return put(find(gpu, key), answer);                                                                          \
    }
#define PLACE(function, key, place)                                                                                  \
    int function(device *gpu, uint32_t *answer) {                                                                    \
        BEGIN(gpu);                                                                                                  \
        return put(item(find(gpu, key), place), answer);                                                             \
    }
#define PAIR(function, key, place)                                                                                   \
    int function(device *gpu, uint32_t *one, uint32_t *other) {                                                      \
        BEGIN(gpu);                                                                                                  \
        int error = put(item(find(gpu, key), place), one);                                                           \
        return error ? error : put(item(find(gpu, key), (place) + 1), other);                                        \
    }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!host())
        return DRIVER_NOT_LOADED;
    int error = refused(NULL, __func__);
    started += !error;
    return error;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    BEGIN(NULL);
    started--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    static const char *const words[] = {
        [0] = "The operation was successful", [1] = "Uninitialized",
        [2] = "Invalid Argument",             [3] = "Not Supported",
        [4] = "Insufficient Permissions",     [5] = "Already Initialized",
        [6] = "Not Found",                    [7] = "Insufficient Size",
        [8] = "Insufficient External Power",  [9] = "Driver Not Loaded",
        [10] = "Timeout",                     [11] = "Interrupt Request Issue",
        [12] = "NVML Shared Library Not Found", [13] = "Function Not Found",
        [14] = "Corrupted infoROM",           [15] = "GPU is lost",
        [16] = "GPU requires restart",        [17] = "The operating system has blocked the request.",
        [18] = "Driver/library version mismatch", [19] = "GPU Reset Required",
    };
    return code >= 0 && code < (int)(sizeof words / sizeof *words) && words[code] ? words[code] : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *answer, unsigned size) {
    BEGIN(NULL);
    return fill(text(host(), "driver"), answer, size);
}

int nvmlSystemGetCudaDriverVersion(uint32_t *answer) {
    BEGIN(NULL);
    return put(find(host(), "cuda_version"), answer);
}

int nvmlSystemGetCudaDriverVersion_v2(uint32_t *answer) {
    BEGIN(NULL);
    return put(find(host(), "cuda_version"), answer);
}

int nvmlDeviceGetCount_v2(uint32_t *answer) {
    BEGIN(NULL);
    *answer = (uint32_t)length(find(host(), "gpus"));
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **answer) {
    *answer = item(find(host(), "gpus"), index);
    BEGIN(*answer);
    return *answer ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **answer) {
    BEGIN(NULL);
    for (long n = 0; (*answer = item(find(host(), "gpus"), n)); n++)
        if (!strcmp(text(*answer, "uuid"), uuid))
            return refused(*answer, __func__);
    return NOT_FOUND;
}

int nvmlDeviceGetName(device *gpu, char *answer, unsigned size) {
    BEGIN(gpu);
    return fill(text(gpu, "name"), answer, size);
}

int nvmlDeviceGetUUID(device *gpu, char *answer, unsigned size) {
    BEGIN(gpu);
    return fill(text(gpu, "uuid"), answer, size);
}

/* Before driver 510 `used` holds what the driver keeps for itself; a slice of a card has nothing of the kind. */
int nvmlDeviceGetMemoryInfo(device *gpu, struct memory *answer) {
    BEGIN(gpu);
    const struct value *said = find(gpu, "memory");
    if (!said)
        return NOT_SUPPORTED;
    answer->total = number(said, "total", 0);
    answer->free = number(said, "free", 0);
    answer->used = number(said, "used", 0) + number(said, "reserved", 0);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device *gpu, struct memory_v2 *answer) {
    BEGIN(gpu);
    const struct value *said = find(gpu, "memory");
    if (answer->version != (sizeof *answer | 2 << 24))
        return ARGUMENT_VERSION_MISMATCH;
    if (!said)
        return NOT_SUPPORTED;
    answer->total = number(said, "total", 0);
    answer->reserved = number(said, "reserved", 0);
    answer->free = number(said, "free", 0);
    answer->used = number(said, "used", 0);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(device *gpu, struct pci *answer) {
    BEGIN(gpu);
    const char *said = text(gpu, "pci"); /* 00000000:01:00.0 */
    if (!said)
        return NOT_SUPPORTED;
    memset(answer, 0, sizeof *answer);
    sscanf(said, "%x:%x:%x", &answer->domain, &answer->bus, &answer->device);
    answer->id = (uint32_t)number(gpu, "pci_device", 0) << 16 | 0x10de;
    snprintf(answer->address, sizeof answer->address, "%s", said);
    snprintf(answer->legacy, sizeof answer->legacy, "%.15s", said + 4);
    return SUCCESS;
}

PAIR(nvmlDeviceGetCudaComputeCapability, "capability", 0)
NUMBER(nvmlDeviceGetArchitecture, "architecture")
NUMBER(nvmlDeviceGetBrand, "brand")
PAIR(nvmlDeviceGetMigMode, "mig", 0)
PLACE(nvmlDeviceGetMaxMigDeviceCount, "mig", 2)
PAIR(nvmlDeviceGetEccMode, "ecc", 0)
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, "retired")
PLACE(nvmlDeviceGetPowerUsage, "power", 0)
PLACE(nvmlDeviceGetEnforcedPowerLimit, "power", 1)
PLACE(nvmlDeviceGetPowerManagementLimit, "power", 1)
PLACE(nvmlDeviceGetPowerManagementDefaultLimit, "power", 2)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, "power", 3)
PLACE(nvmlDeviceGetCurrPcieLinkGeneration, "pcie", 0)
PLACE(nvmlDeviceGetCurrPcieLinkWidth, "pcie", 1)
PLACE(nvmlDeviceGetMaxPcieLinkGeneration, "pcie", 2)
PLACE(nvmlDeviceGetMaxPcieLinkWidth, "pcie", 3)
NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetDisplayActive, "display")
NUMBER(nvmlDeviceGetMemoryBusWidth, "bus_width")

int nvmlDeviceGetMigDeviceHandleByIndex(device *gpu, unsigned index, device **answer) {
    BEGIN(gpu);
    if (!find(gpu, "mig"))
        return NOT_SUPPORTED;
    *answer = item(find(gpu, "slices"), index);
    return *answer ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetRemappedRows(device *gpu, uint32_t *correctable, uint32_t *not, uint32_t *pending, uint32_t *failed) {
    uint32_t *places[] = {correctable, not, pending, failed};
    BEGIN(gpu);
    for (int n = 0; n < 4; n++)
        if (put(item(find(gpu, "remapped"), n), places[n]))
            return NOT_SUPPORTED;
    return SUCCESS;
}

/* Only uncorrected errors are described; `counter` 0: since the driver was loaded, 1: ever. */
int nvmlDeviceGetTotalEccErrors(device *gpu, unsigned kind, unsigned counter, uint64_t *answer) {
    BEGIN(gpu);
    const struct value *said = item(find(gpu, "ecc_errors"), counter);
    *answer = said && kind == 1 ? (uint64_t)said->number : 0;
    return said ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksEventReasons(device *gpu, uint64_t *answer) {
    BEGIN(gpu);
    *answer = (uint64_t)number(gpu, "clock_reasons", 0);
    return find(gpu, "clock_reasons") ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, uint64_t *answer) {
    BEGIN(gpu);
    *answer = (uint64_t)number(gpu, "clock_reasons", 0);
    return find(gpu, "clock_reasons") ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(device *gpu, unsigned sensor, uint32_t *answer) {
    BEGIN(gpu);
    return sensor ? INVALID_ARGUMENT : put(find(gpu, "temperature"), answer);
}

int nvmlDeviceGetTemperatureV(device *gpu, struct temperature *answer) {
    BEGIN(gpu);
    if (answer->version != (sizeof *answer | 1 << 24))
        return ARGUMENT_VERSION_MISMATCH;
    return answer->sensor ? INVALID_ARGUMENT : put(find(gpu, "temperature"), (uint32_t *)&answer->celsius);
}

/* the GPU, its memory; in % */
int nvmlDeviceGetUtilizationRates(device *gpu, uint32_t *answer) {
    BEGIN(gpu);
    if (put(item(find(gpu, "utilization"), 0), &answer[0]))
        return NOT_SUPPORTED;
    return put(item(find(gpu, "utilization"), 1), &answer[1]);
}

/* 0 shutdown, 1 slowdown */
int nvmlDeviceGetTemperatureThreshold(device *gpu, unsigned kind, uint32_t *answer) {
    BEGIN(gpu);
    return put(item(find(gpu, "thresholds"), kind), answer);
}

/* 0 graphics, 1 SM, 2 memory; only the last is described */
int nvmlDeviceGetMaxClockInfo(device *gpu, unsigned kind, uint32_t *answer) {
    BEGIN(gpu);
    return kind == 2 ? put(find(gpu, "memory_clock"), answer) : NOT_SUPPORTED;
}

int nvmlDeviceGetNvLinkState(device *gpu, unsigned link, uint32_t *answer) {
    BEGIN(gpu);
    const struct value *links = find(gpu, "nvlinks");
    return links && link >= length(links) ? INVALID_ARGUMENT : put(item(links, link), answer);
}

int nvmlDeviceGetGpuFabricInfoV(device *gpu, struct fabric *answer) {
    BEGIN(gpu);
    const struct value *said = find(gpu, "fabric");
    if (answer->version != (sizeof *answer | 3 << 24))
        return ARGUMENT_VERSION_MISMATCH;
    if (!said)
        return NOT_SUPPORTED;
    memset(answer->cluster, 0, sizeof answer->cluster);
    answer->status = (uint32_t)number(said, "status", 0);
    answer->clique = 0;
    answer->state = (uint32_t)number(said, "state", 0);
    answer->health_mask = 0;
    answer->health = answer->state == 3;
    return SUCCESS;
}

/* "while": the path of a file, of which the entry is listed as long as it is there. */
static int listed_now(const struct value *entry) {
    const char *path = text(entry, "while");
    return !path || !access(path, F_OK);
}

static int processes(device *gpu, const char *key, uint32_t *count, struct process *answer) {
    const struct value *said = find(gpu, key);
    uint32_t room = *count, n = 0;
    if (!said)
        return NOT_SUPPORTED;
    *count = 0;
    for (const struct value *it = said->first; it; it = it->next)
        *count += (uint32_t)listed_now(it);
    if (!answer || room < *count)
        return *count ? INSUFFICIENT_SIZE : SUCCESS;
    for (const struct value *it = said->first; it && n < *count; it = it->next) {
        if (!listed_now(it))
            continue;
        const struct value *memory = find(it, "memory"); /* unknown under WSL and to others than root under MIG */
        answer[n++] = (struct process){(uint32_t)number(it, "pid", 0), memory ? (uint64_t)memory->number : UINT64_MAX,
                                       UINT32_MAX, UINT32_MAX};
    }
    *count = n;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *gpu, uint32_t *count, struct process *answer) {
    BEGIN(gpu);
    return processes(gpu, "compute", count, answer);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *gpu, uint32_t *count, struct process *answer) {
    BEGIN(gpu);
    return processes(gpu, "graphics", count, answer);
}

/* What drivers before 510 have, with the same layout. */
int nvmlDeviceGetComputeRunningProcesses_v2(device *gpu, uint32_t *count, struct process *answer) {
    BEGIN(gpu);
    return processes(gpu, "compute", count, answer);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(device *gpu, uint32_t *count, struct process *answer) {
    BEGIN(gpu);
    return processes(gpu, "graphics", count, answer);
}
