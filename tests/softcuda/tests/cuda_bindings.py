"""Talks to the CUDA driver through NVIDIA's cuda-bindings alone: devices, module, memory, streams, events, a launch.

Usage: cuda_bindings.py PTX_FILE, a module with scale(float* y, const float* x, float factor, int n).
"""

import ctypes
import sys

from cuda.bindings import driver


def ok(result):
    """The values of a call that must have succeeded."""
    code, *values = result
    if code != driver.CUresult.CUDA_SUCCESS:
        raise SystemExit(f"{code}: {driver.cuGetErrorString(code)[1]}")
    return values[0] if len(values) == 1 else tuple(values)


ok(driver.cuInit(0))
print("driver", ok(driver.cuDriverGetVersion()), "devices", ok(driver.cuDeviceGetCount()))
device = ok(driver.cuDeviceGet(0))
print("name", ok(driver.cuDeviceGetName(64, device)).rstrip(b"\0").decode())
attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
assert ok(driver.cuDeviceGetAttribute(attribute, device)) >= 8
context = ok(driver.cuDevicePrimaryCtxRetain(device))
ok(driver.cuCtxSetCurrent(context))

with open(sys.argv[1], "rb") as file:
    module = ok(driver.cuModuleLoadData(file.read() + b"\0"))
scale = ok(driver.cuModuleGetFunction(module, b"scale"))
assert driver.cuModuleGetFunction(module, b"absent")[0] == driver.CUresult.CUDA_ERROR_NOT_FOUND

n = 1000
x = (ctypes.c_float * n)(*range(n))
y = (ctypes.c_float * n)()
size = ctypes.sizeof(x)
stream = ok(driver.cuStreamCreate(0))
x_there, y_there = ok(driver.cuMemAlloc(size)), ok(driver.cuMemAlloc(size))
free, total = ok(driver.cuMemGetInfo())
assert 0 < free < total
ok(driver.cuMemcpyHtoDAsync(x_there, ctypes.addressof(x), size, stream))
ok(driver.cuMemsetD32(y_there, 0, n))
start, end = ok(driver.cuEventCreate(0)), ok(driver.cuEventCreate(0))
ok(driver.cuEventRecord(start, stream))
values = (int(y_there), int(x_there), 2.5, n)
types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_int)
ok(driver.cuLaunchKernel(scale, (n + 127) // 128, 1, 1, 128, 1, 1, 0, stream, (values, types), 0))
ok(driver.cuEventRecord(end, stream))
ok(driver.cuEventSynchronize(end))
assert ok(driver.cuEventElapsedTime(start, end)) >= 0
ok(driver.cuMemcpyDtoHAsync(ctypes.addressof(y), y_there, size, stream))
ok(driver.cuStreamSynchronize(stream))
assert all(y[i] == 2.5 * i for i in range(n)), list(y[:8])

for there in (x_there, y_there):
    ok(driver.cuMemFree(there))
for event in (start, end):
    ok(driver.cuEventDestroy(event))
ok(driver.cuStreamDestroy(stream))
ok(driver.cuModuleUnload(module))
ok(driver.cuDevicePrimaryCtxRelease(device))
print("scaled", n, "numbers")
