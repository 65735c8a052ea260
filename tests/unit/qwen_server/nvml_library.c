/* The parts of NVML and of CUDA's driver API that the server calls, for the devices of a test.
 *
 * nvml_library.py describes the same structures. Layouts and results follow nvml.h and cuda.h.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    TIMEOUT = 10,
};

#define MAX_DEVICES 8
#define MAX_EVENTS 8
#define NOT_A_PART (-1)

struct device {
    char uuid[96];
    char name[96];
    int board; /* of a MIG device: the number of its GPU; otherwise NOT_A_PART */
    unsigned bus;
    uint64_t total, reserved, used;
    unsigned temperature;
    int64_t ecc;       /* uncorrected errors; negative: not supported */
    int recovery;      /* the action that the driver asks for; negative: not supported */
    int mig;           /* whether the GPU is in MIG mode */
    unsigned instance; /* of a MIG device: its GPU instance */
    int deaf;          /* whether the driver refuses to report its events */
    int registered;    /* set by nvmlDeviceRegisterEvents */
    int error;         /* the result of each call for the device */
};

struct event {
    int device;
    unsigned instance;
    uint64_t xid;
};

struct driver {
    int hangs; /* a call of init, or for memory, returns when this is 0 */
    int inits; /* how often init was called */
    int error; /* the result of init */
    int count;
    int pending;
    struct device devices[MAX_DEVICES];
    struct event events[MAX_EVENTS];
};

volatile struct driver driver;

#define DEVICES ((struct device *)driver.devices)

static void answer_when_told(void)
{
    while (driver.hangs)
        usleep(1000);
}

static int is_part(const struct device *device)
{
    return device->board != NOT_A_PART;
}

/* The device with a number among the GPUs, or among the parts of a GPU; NULL if there is none. */
static struct device *numbered(int board, unsigned number)
{
    for (int index = 0; index < driver.count; index++)
        if (DEVICES[index].board == board && number-- == 0)
            return &DEVICES[index];
    return NULL;
}

static unsigned how_many(int board)
{
    unsigned count = 0;
    while (numbered(board, count))
        count++;
    return count;
}

static int give(struct device *found, struct device **handle)
{
    if (!found)
        return NOT_FOUND;
    *handle = found;
    return found->error;
}

/* NVML: start and errors */

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    driver.inits++;
    answer_when_told();
    return driver.error;
}

const char *nvmlErrorString(int result)
{
    static char text[32];
    snprintf(text, sizeof text, "error %d", result);
    return text;
}

/* NVML: devices */

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = how_many(NOT_A_PART);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **handle)
{
    return index < how_many(NOT_A_PART) ? give(numbered(NOT_A_PART, index), handle) : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **handle)
{
    for (int index = 0; index < driver.count; index++)
        if (strcmp(DEVICES[index].uuid, uuid) == 0)
            return give(&DEVICES[index], handle);
    return NOT_FOUND;
}

struct pci_info {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci_info *info)
{
    memset(info, 0, sizeof *info);
    info->bus = device->bus;
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", device->bus);
    return device->error;
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length)
{
    snprintf(name, length, "%s", device->name);
    return device->error;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length)
{
    snprintf(uuid, length, "%s", device->uuid);
    return device->error;
}

/* NVML: MIG */

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending)
{
    if (is_part(device))
        return INVALID_ARGUMENT;
    *current = *pending = device->mig > 0;
    return device->error;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count)
{
    (void)device;
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **handle)
{
    return give(numbered((int)(device - DEVICES), index), handle);
}

int nvmlDeviceIsMigDeviceHandle(struct device *device, unsigned *is)
{
    *is = is_part(device);
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct device *device, struct device **handle)
{
    return is_part(device) ? give(&DEVICES[device->board], handle) : INVALID_ARGUMENT;
}

int nvmlDeviceGetGpuInstanceId(struct device *device, unsigned *id)
{
    *id = device->instance;
    return is_part(device) ? SUCCESS : NOT_SUPPORTED;
}

/* NVML: readings */

struct memory {
    uint64_t total, free, used;
};

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    answer_when_told();
    /* The first version counts what the driver reserves as used. */
    memory->total = device->total;
    memory->used = device->used + device->reserved;
    memory->free = device->total - memory->used;
    return device->error;
}

int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *degrees)
{
    if (sensor != 0)
        return INVALID_ARGUMENT;
    *degrees = device->temperature;
    return is_part(device) ? NOT_SUPPORTED : device->error;
}

int nvmlDeviceGetTotalEccErrors(struct device *device, int kind, int since, uint64_t *count)
{
    if (kind != 1 || since != 0)
        return INVALID_ARGUMENT;
    if (device->ecc < 0 || is_part(device))
        return NOT_SUPPORTED;
    *count = (uint64_t)device->ecc;
    return device->error;
}

struct field_value {
    uint32_t field, scope;
    int64_t timestamp, latency;
    unsigned type;
    int result;
    union {
        double real;
        unsigned number;
        uint64_t large;
    } value;
};

int nvmlDeviceGetFieldValues(struct device *device, int count, struct field_value *values)
{
    for (int index = 0; index < count; index++) {
        int known = values[index].field == 230 && device->recovery >= 0 && !is_part(device);
        values[index].result = known ? SUCCESS : NOT_SUPPORTED;
        values[index].value.number = known ? (unsigned)device->recovery : 0;
    }
    return device->error;
}

/* NVML: events. There is one set. */

static char event_set;

struct event_data {
    struct device *device;
    uint64_t type, data;
    unsigned gpu_instance, compute_instance;
};

int nvmlEventSetCreate(char **set)
{
    for (int index = 0; index < driver.count; index++)
        DEVICES[index].registered = 0;
    *set = &event_set;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(struct device *device, uint64_t types, char *set)
{
    if (set != &event_set || types != 8 || is_part(device))
        return INVALID_ARGUMENT;
    if (device->deaf)
        return NOT_SUPPORTED;
    device->registered = 1;
    return device->error;
}

int nvmlEventSetWait_v2(char *set, struct event_data *data, unsigned timeout)
{
    (void)timeout;
    if (set != &event_set)
        return INVALID_ARGUMENT;
    while (driver.pending > 0) {
        volatile struct event *event = &driver.events[--driver.pending];
        if (!DEVICES[event->device].registered)
            continue;
        data->device = &DEVICES[event->device];
        data->type = 8;
        data->data = event->xid;
        data->gpu_instance = data->compute_instance = event->instance;
        return SUCCESS;
    }
    return TIMEOUT;
}

/* CUDA: CUDA_ANSWERS has the UUIDs in its order, 32 digits each with a comma between, or `hang`. */

static const char *cuda_answers(void)
{
    const char *answers = getenv("CUDA_ANSWERS");
    return answers ? answers : "";
}

int cuInit(unsigned flags)
{
    (void)flags;
    while (strcmp(cuda_answers(), "hang") == 0)
        usleep(1000);
    return *cuda_answers() ? 0 : 100;
}

int cuDeviceGetCount(int *count)
{
    *count = ((int)strlen(cuda_answers()) + 1) / 33;
    return 0;
}

int cuDeviceGet(int *device, int index)
{
    *device = index;
    return 0;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    for (int index = 0; index < 16; index++)
        if (sscanf(cuda_answers() + device * 33 + index * 2, "%2hhx", &uuid[index]) != 1)
            return 1;
    return 0;
}
