"""The parts of the check, the most important first."""
from .runner import Part

HERE = "tests.device_check"
PARTS = [
    Part("versions", 15, 60, f"{HERE}.machine:versions", "does it run at all?"),
    Part("tests", 60, 150, f"{HERE}.suite:suite", "is every op right?"),
    Part("losses", 60, 120, f"{HERE}.training:losses", "do the losses of 100 steps follow the CPU's to 1e-5?"),
    Part("repeats", 45, 90, f"{HERE}.training:repeats", "has every repeat the same bits?"),
    Part("waits", 10, 40, f"{HERE}.training:waits", "does no step wait for the device, and is all memory given back?"),
    Part("kernels", 20, 60, f"{HERE}.kernels:kernels", "do kernels equal the textbook, and are they faster?"),
    Part("launches", 20, 40, f"{HERE}.speed:launches", "how many launches has a step, is it bound by them?"),
    Part("host", 5, 30, f"{HERE}.host:host", "how long is the host busy with one call?"),
    Part("ceilings", 5, 45, f"{HERE}.products:ceilings", "how fast are products and copies?"),
    Part("batched", 5, 40, f"{HERE}.products:batched", "what do products beyond 2-D do in each dtype?"),
    Part("capture", 5, 30, f"{HERE}.products:capture", "does a captured graph with products repeat the same bits?"),
    Part("programs", 60, 110, f"{HERE}.programs:programs", "do the programs run on it?"),
    Part("steps", 40, 70, f"{HERE}.speed:steps", "how long is a step of the default run?"),
    Part("bench", 60, 200, f"{HERE}.speed:bench", "how fast is a step beside PyTorch's?"),
]
