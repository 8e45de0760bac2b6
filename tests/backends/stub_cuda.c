/* A stand-in for libcuda.so.1: device memory is the host's. Tests set the int variables, and look at them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int stub_major = 8, stub_minor = 7, stub_no_device = 0, stub_status = 0; /* stub_status: of the next synchronisation */
int stub_allocations = 0, stub_contexts = 0, stub_streams = 0;

int cuInit(unsigned flags) { return flags || stub_no_device ? 100 : 0; }
int cuGetErrorString(int status, const char **text) {
    *text = status == 100 ? "no CUDA-capable device is detected" : "an illegal memory access was encountered";
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub (nvgpu)", length); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? stub_major : attribute == 76 ? stub_minor : -1;
    return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &stub_contexts; stub_contexts++; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { stub_contexts--; return device; }
int cuCtxSetCurrent(void *context) { return context == &stub_contexts ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    *address = (uint64_t)(uintptr_t)malloc(size);
    stub_allocations++;
    return *address ? 0 : 2;
}
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); stub_allocations--; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    memcpy((void *)(uintptr_t)to, from, size);
    return stream == &stub_streams ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    memcpy(to, (void *)(uintptr_t)from, size);
    return stream == &stub_streams ? 0 : 400;
}
int cuStreamCreate(void **stream, unsigned flags) { *stream = &stub_streams; stub_streams++; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { return stream == &stub_streams ? stub_status : 400; }
int cuStreamDestroy_v2(void *stream) { stub_streams--; return stream == &stub_streams ? 0 : 400; }
