"""The machine: device, arithmetic, memory, compilation, several processes as one."""
