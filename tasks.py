"""The tasks of gpufleet, put together: `./fleet --list`."""

from invoke import Collection

from gpufleet.tasks import (
    approve,
    change,
    cost,
    develop,
    doctor,
    fleet,
    flows,
    freeze,
    images,
    journal,
    plan,
    simulate,
    state,
    worker,
)

namespace = Collection()
for module in (fleet, change, doctor, develop, worker):
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
for module in (flows, approve, cost, freeze, journal, plan, state, images, simulate):
    namespace.add_collection(Collection.from_module(module))
