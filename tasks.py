"""The tasks of gpufleet, put together: `./fleet --list`."""

from invoke import Collection

from gpufleet.tasks import develop, doctor, fleet

namespace = Collection()
for module in (fleet, doctor, develop):
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
