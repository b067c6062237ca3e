/* What CUDA's library says of the host's GPUs: it asks the files that nvidia-smi's stub asks.
 * cuda.h names the codes: 100 no device, 802 the fabric is not up yet, 803 driver and library do not match, 999 unknown. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_file(const char *name, char *into, int size) {
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    int length = (int)fread(into, 1, (size_t)size - 1, file);
    fclose(file);
    into[length] = 0;
    into[strcspn(into, "\n")] = 0;
    return 1;
}

int cuInit(unsigned flags) {
    char driver[64], library[256], fault[64], manager[64], uptime[64];
    (void)flags;
    if (read_file("/var/lib/gpu-stub/faults/cuda", fault, sizeof fault))
        return atoi(fault) ? atoi(fault) : 999;
    if (!read_file("/sys/module/nvidia/version", driver, sizeof driver))
        return 100;
    if (!read_file("/usr/lib/gpu-stub/installed/nvidia-driver", library, sizeof library))
        return 803;
    if (!strstr(library, driver))
        return 803;
    if (read_file("/run/gpu-stub/units/nvidia-fabricmanager", manager, sizeof manager) &&
        sscanf(manager, "activating %63s", fault) == 1 &&
        read_file("/proc/uptime", uptime, sizeof uptime) && atof(uptime) < atof(fault))
        return 802;
    return 0;
}

int cuDeviceGetCount(int *count) {
    char gpus[16];
    *count = read_file("/var/lib/gpu-stub/gpus", gpus, sizeof gpus) ? atoi(gpus) : 8;
    return 0;
}
