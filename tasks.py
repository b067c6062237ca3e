"""The tasks of gpufleet, put together: `./fleet --list`."""

from invoke import Collection

from gpufleet.tasks import (
    access,
    approve,
    audit,
    batch,
    bench,
    change,
    cost,
    develop,
    disaster,
    doctor,
    drills,
    fleet,
    flows,
    freeze,
    gateway,
    images,
    journal,
    overrides,
    patch,
    plan,
    prewarm,
    simulate,
    slo,
    snapshot,
    snapshot_pods,
    state,
    worker,
)

namespace = Collection()
for module in (fleet, change, doctor, develop, worker):
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
for module in (
    access,
    approve,
    audit,
    batch,
    bench,
    cost,
    flows,
    freeze,
    gateway,
    images,
    journal,
    patch,
    plan,
    prewarm,
    simulate,
    slo,
    snapshot,
    state,
):
    namespace.add_collection(Collection.from_module(module))
namespace.add_collection(Collection.from_module(disaster), name="dr")
for task in Collection.from_module(drills).tasks.values():
    namespace.collections["dr"].add_task(task)
for task in Collection.from_module(overrides).tasks.values():
    namespace.collections["freeze"].add_task(task)
for task in Collection.from_module(snapshot_pods).tasks.values():
    namespace.collections["snapshot"].add_task(task)
